"""The way to a Ray cluster. Needs `pip install 'linnet[cluster]'`; imports no torch."""

import logging
import socket

from linnet.errors import InvalidInput, one_line


def connect(address: str) -> None:
    """This process becomes one that gives work to the cluster; "auto" finds that of this machine. InvalidInput where
    none answers, or Ray is not installed."""
    try:
        import ray
    except ModuleNotFoundError as error:
        remedy = "run `pip install 'linnet[cluster]'`"
        raise InvalidInput("ray", address, f"{error.name} is not installed", remedy) from None
    try:
        if ":" in address:  # Ray itself would wait for most of a minute
            host, _, port = address.rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
        ray.init(address=address, namespace="linnet", logging_level=logging.ERROR, log_to_driver=False)
    except (OSError, ValueError, RuntimeError) as error:
        remedy = "give HOST:PORT of its head, and `ray start` this machine as one of its nodes"
        raise InvalidInput("ray", address, f"no cluster answers ({one_line(error)[:200]})", remedy) from None
