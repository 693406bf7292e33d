"""A program that converts on a local cluster of Dask with two processes, one of which may be killed meanwhile: run by tests.

    python on_a_cluster.py SOURCE OUT SHARD_BYTES KILL

SOURCE and OUT are paths or URLs. Prints JSON: how many workers there were, whether one was
killed, and the processes that did the work.
"""

from __future__ import annotations

import json
import os
import signal
import sys

import stateregistry as sr


def main(source, out, shard_bytes, kill):
    """Convert, and kill one worker at the first sign of progress."""
    from dask.distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        before = set(client.run(os.getpid).values())
        killed = []

        def told(done, total):
            if kill and not killed:
                killed.append(min(before))
                os.kill(killed[0], signal.SIGKILL)

        plan = sr.plan(source, to="flax-linen", allow=("assumption", "choice"))
        done = plan.execute(
            source, out=f"{out}/model.safetensors", shard_bytes=int(shard_bytes) or None,
            executor=client.get_executor(), workers=2, progress=told,
        )  # fmt: skip
        client.wait_for_workers(2)
        after = set(client.run(os.getpid).values())
        told_last = {"before": sorted(before), "after": sorted(after), "killed": killed, "out": str(done.target)}
        print(json.dumps(told_last), flush=True)
        # Closing a local cluster one of whose workers was killed can wait for that worker without end. Its processes
        # end with this one, which they watch.
        os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4] == "yes")
