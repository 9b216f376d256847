"""Train a small network on handwritten digits; checkpoint on SIGUSR1, go on from there when started again.

The checkpoint goes to the folder that KEZEK_CHECKPOINTS names, which the job's next attempt finds as it was; the
platform sees it there, and counts only the work after it as lost. Without that variable it goes to this folder.

Writes model.npz and metrics.json; ends with 1 if the test accuracy is below 0.9.
"""

import argparse
import json
import os
import signal
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy is loaded, or it has no effect

import numpy as np
from sklearn.datasets import load_digits

CLASSES = 10
BATCH = 64
LEARNING_RATE = 0.05
MOMENTUM = 0.9
TEST_SHARE = 5  # every fifth picture is for the test
ENOUGH_ACCURACY = 0.9
MAX_EPOCHS = 10_000
CHECKPOINT = Path(os.environ.get("KEZEK_CHECKPOINTS", ".")) / "checkpoint.npz"


def load_data():
    pictures, labels = load_digits(return_X_y=True)
    pictures = pictures / 16.0
    is_test = np.arange(len(labels)) % TEST_SHARE == 0
    return pictures[~is_test], labels[~is_test], pictures[is_test], labels[is_test]


def new_weights(hidden, seed):
    rng = np.random.default_rng(seed)
    weights = {
        "w1": rng.normal(0.0, np.sqrt(2.0 / 64), (64, hidden)),
        "b1": np.zeros(hidden),
        "w2": rng.normal(0.0, np.sqrt(2.0 / hidden), (hidden, CLASSES)),
        "b2": np.zeros(CLASSES),
    }
    speeds = {name: np.zeros_like(value) for name, value in weights.items()}
    return weights, speeds


def forward(weights, x):
    layer = np.maximum(x @ weights["w1"] + weights["b1"], 0.0)
    scores = layer @ weights["w2"] + weights["b2"]
    scores -= scores.max(axis=1, keepdims=True)
    odds = np.exp(scores)
    return layer, odds / odds.sum(axis=1, keepdims=True)


def loss_and_gradients(weights, x, y):
    layer, odds = forward(weights, x)
    rows = np.arange(len(y))
    loss = float(-np.log(odds[rows, y] + 1e-12).mean())
    error = odds.copy()
    error[rows, y] -= 1.0
    error /= len(y)
    back = (error @ weights["w2"].T) * (layer > 0)
    gradients = {"w1": x.T @ back, "b1": back.sum(axis=0), "w2": layer.T @ error, "b2": error.sum(axis=0)}
    return loss, gradients


def train_epoch(weights, speeds, x, y, order):
    losses = []
    for start in range(0, len(order), BATCH):
        batch = order[start : start + BATCH]
        loss, gradients = loss_and_gradients(weights, x[batch], y[batch])
        for name, gradient in gradients.items():
            speeds[name] = MOMENTUM * speeds[name] - LEARNING_RATE * gradient
            weights[name] += speeds[name]
        losses.append(loss)
    return float(np.mean(losses))


def accuracy(weights, x, y):
    return float((forward(weights, x)[1].argmax(axis=1) == y).mean())


def write_whole(path, arrays):
    """Write beside and rename, so that a stop in the middle leaves the old file.

    A name that begins with a dot is no checkpoint yet.
    """
    beside = path.with_name(f".{path.name}")
    np.savez(beside, **arrays)
    beside.replace(path)


def save_checkpoint(weights, speeds, epoch, seed):
    arrays = {f"weight_{name}": value for name, value in weights.items()}
    arrays |= {f"speed_{name}": value for name, value in speeds.items()}
    write_whole(CHECKPOINT, arrays | {"epoch": np.array(epoch), "seed": np.array(seed)})
    print(f"checkpoint epoch={epoch} file={CHECKPOINT}", flush=True)


def load_checkpoint(args):
    """Weights, speeds and finished epochs of a checkpoint made with the same arguments, else None."""
    if not CHECKPOINT.exists():
        return None
    with np.load(CHECKPOINT) as saved:
        if int(saved["seed"]) != args.seed or saved["weight_b1"].shape != (args.hidden,):
            print(f"{CHECKPOINT} is of another run: starting anew", flush=True)
            return None
        names = ("w1", "b1", "w2", "b2")
        weights = {name: saved[f"weight_{name}"] for name in names}
        speeds = {name: saved[f"speed_{name}"] for name in names}
        return weights, speeds, int(saved["epoch"])


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=25, help=f"1 to {MAX_EPOCHS}")
    parser.add_argument("--hidden", type=int, default=64, help="hidden units, 1 to 4096")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if not 1 <= args.epochs <= MAX_EPOCHS or not 1 <= args.hidden <= 4096 or args.seed < 0:
        parser.error(f"--epochs takes 1 to {MAX_EPOCHS}, --hidden 1 to 4096, --seed 0 or more")
    return args


def main():
    args = parse_arguments()
    wanted = {"checkpoint": False}
    signal.signal(signal.SIGUSR1, lambda *_: wanted.update(checkpoint=True))
    x, y, test_x, test_y = load_data()
    print(f"job={os.environ.get('KEZEK_JOB_ID', '-')} pictures={len(y)} hidden={args.hidden}", flush=True)

    found = load_checkpoint(args)
    if found:
        weights, speeds, done = found
        print(f"resumed epoch={done}", flush=True)
    else:
        (weights, speeds), done = new_weights(args.hidden, args.seed), 0

    for epoch in range(done + 1, args.epochs + 1):
        # The order depends on the epoch alone: a resumed run gives the weights of an unbroken one.
        order = np.random.default_rng([args.seed, epoch]).permutation(len(y))
        loss = train_epoch(weights, speeds, x, y, order)
        right = accuracy(weights, test_x, test_y)
        print(f"epoch={epoch}/{args.epochs} loss={loss:.4f} accuracy={right:.4f}", flush=True)
        if wanted["checkpoint"]:
            wanted["checkpoint"] = False
            save_checkpoint(weights, speeds, epoch, args.seed)

    right = accuracy(weights, test_x, test_y)
    write_whole(Path("model.npz"), weights)
    metrics = {"accuracy": right, "epochs": args.epochs, "hidden": args.hidden, "seed": args.seed}
    Path("metrics.json").write_text(json.dumps(metrics, indent=1), encoding="utf-8")
    if right < ENOUGH_ACCURACY:
        print(f"accuracy {right:.4f} is below {ENOUGH_ACCURACY}: give it more epochs", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
