"""A Ray program inside a job: start Ray, hold each GPU with an actor, print what each of them saw as JSON."""

import json
import os
import sys

import ray

ANSWER_S = 60  # for all actors together


@ray.remote(num_gpus=1, num_cpus=0)
class Witness:
    """Holds one GPU as long as it lives, so that two of them never see the same one."""

    def see(self):
        return os.environ.get("CUDA_VISIBLE_DEVICES", "")


def main():
    ray.init(include_dashboard=False, log_to_driver=False)
    gpus = int(ray.cluster_resources().get("GPU", 0))
    witnesses = [Witness.remote() for _ in range(gpus)]
    seen = ray.get([witness.see.remote() for witness in witnesses], timeout=ANSWER_S)
    print(json.dumps({"gpus": gpus, "tasks": sorted(seen)}), flush=True)
    ray.shutdown()
    return 0 if gpus else 1


if __name__ == "__main__":
    sys.exit(main())
