// The service in Go: net/http, lib/pq and redigo.
package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/gomodule/redigo/redis"
	_ "github.com/lib/pq"
)

func keep(database *sql.DB, row string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_, err := database.ExecContext(ctx, "INSERT INTO rows (id, service) VALUES ($1, 'go') ON CONFLICT DO NOTHING", row)
	if err != nil {
		return err
	}
	limit := redis.DialConnectTimeout(10 * time.Second)
	store, err := redis.Dial("tcp", os.Getenv("REDIS_HOST")+":"+os.Getenv("REDIS_PORT"), limit,
		redis.DialReadTimeout(10*time.Second), redis.DialWriteTimeout(10*time.Second))
	if err != nil {
		return err
	}
	defer store.Close()
	if _, err := store.Do("INCR", "go"); err != nil {
		return err
	}
	_, err = store.Do("PUBLISH", "rows", row)
	return err
}

func main() {
	port, err := strconv.Atoi(os.Getenv("FIEFDOM_PORT"))
	if err != nil {
		log.Fatal(err)
	}
	me, err := json.Marshal(map[string]any{
		"service": "go", "host": os.Getenv("FIEFDOM_HOST"), "port": port, "version": os.Getenv("FIEFDOM_VERSION"),
	})
	if err != nil {
		log.Fatal(err)
	}
	database, err := sql.Open("postgres", fmt.Sprintf(
		"host=%s port=%s user=service password=%s dbname=postgres sslmode=disable connect_timeout=10",
		os.Getenv("POSTGRES_HOST"), os.Getenv("POSTGRES_PORT"), os.Getenv("POSTGRES_PASSWORD")))
	if err != nil {
		log.Fatal(err)
	}
	self := func(answer http.ResponseWriter, _ *http.Request) {
		answer.Header().Set("Content-Type", "application/json")
		answer.Write(me)
	}
	http.HandleFunc("/predict", self)
	http.HandleFunc("/health", self)
	http.HandleFunc("/rows", func(answer http.ResponseWriter, request *http.Request) {
		if err := keep(database, request.URL.Query().Get("id")); err != nil {
			http.Error(answer, err.Error(), http.StatusServiceUnavailable)
			return
		}
		self(answer, request)
	})
	server := &http.Server{Addr: ":8000", IdleTimeout: 75 * time.Second}
	ended := make(chan struct{})
	go func() {
		stop := make(chan os.Signal, 1)
		signal.Notify(stop, syscall.SIGTERM)
		<-stop
		server.Shutdown(context.Background())
		close(ended)
	}()
	if err := server.ListenAndServe(); err != http.ErrServerClosed {
		log.Fatal(err)
	}
	<-ended
}
