"""This repository's choices for every host, on top of the model's defaults and below what an inventory says.

Read by pyinfra and by `fiefdom` alike. `inventories/group_data` links here, so that the choices hold from any
working directory. `all.py` may set the cluster's keys and those of hosts; `GROUP.py` those of the group's hosts.
"""

# Five files of 10 MiB are the default; with a dozen instances on a host, three keep logs under half a GiB.
docker = {"log_max_size": "10m", "log_max_file": 3}
