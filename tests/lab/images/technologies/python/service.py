"""The service in Python: WSGI, psycopg2 and redis-py."""

import json
import os
from urllib.parse import parse_qs

import psycopg2
import redis

ME = json.dumps(
    {
        "service": "python",
        "host": os.environ["FIEFDOM_HOST"],
        "port": int(os.environ["FIEFDOM_PORT"]),
        "version": os.environ["FIEFDOM_VERSION"],
    }
).encode()


def keep(row):
    connection = psycopg2.connect(
        host=os.environ["POSTGRES_HOST"],
        port=os.environ["POSTGRES_PORT"],
        user="service",
        dbname="postgres",
        password=os.environ["POSTGRES_PASSWORD"],
        connect_timeout=10,
    )
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute("INSERT INTO rows (id, service) VALUES (%s, 'python') ON CONFLICT DO NOTHING", (row,))
    finally:
        connection.close()
    store = redis.Redis(
        os.environ["REDIS_HOST"], int(os.environ["REDIS_PORT"]), socket_timeout=10, socket_connect_timeout=10
    )
    store.incr("python")
    store.publish("rows", row)


def application(environ, start_response):
    path, status, answer = environ["PATH_INFO"], "200 OK", ME
    if path == "/rows":
        try:
            keep(parse_qs(environ["QUERY_STRING"])["id"][0])
        except (psycopg2.Error, redis.RedisError) as error:
            status, answer = "503 Service Unavailable", str(error).encode()
    elif path not in ("/predict", "/health"):
        status, answer = "404 Not Found", b""
    start_response(status, [("Content-Type", "application/json"), ("Content-Length", str(len(answer)))])
    return [answer]
