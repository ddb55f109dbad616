"""A cluster in Python alone: pyinfra reads the lists as groups, and their data says what a YAML inventory would.

The data of `all` and `group_data/all.py` hold the cluster's keys, the data of a host its own. pyinfra's names for
SSH settings (`ssh_hostname`, `ssh_user`, `ssh_port`, `ssh_key`, `ssh_known_hosts_file`) are understood as well.
Names of your own begin with an underscore here, and with `x_` in data.
"""

from pathlib import Path

_FOLDER = Path(__file__).resolve().parent
_APP_HOST_COUNT = 3

gateways = ["gw1"]
app_hosts = [f"app{i}" for i in range(1, _APP_HOST_COUNT + 1)]

all = (
    [
        ("gw1", {"ssh_hostname": "10.20.0.11"}),
        *[(name, {"ssh_hostname": f"10.20.0.{20 + i}"}) for i, name in enumerate(app_hosts, start=1)],
    ],
    {
        "cluster": "python",
        "base_dir": str(_FOLDER),  # where relative paths start from
        "network": {"cidr": "10.20.0.0/24", "admin_cidrs": ["10.20.0.5/32"]},
        "serf": {"key_file": "../.lab/python.gossip.key"},
        "ssh_user": "operator",
        "ssh_key": str(Path.home() / ".ssh/id_ed25519"),
        "ssh_strict_host_key_checking": "yes",
        "_sudo": True,
        "services": {
            "predictor": {
                "image": "fiefdom/predictor",
                "version": "1.0.0",
                "build": "../images/predictor",
                "instances": 4,
            },
        },
    },
)
