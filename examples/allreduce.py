"""Data-parallel training of one model by all ranks of a gang.

Each rank computes gradients on its part of the digits; rank 0 listens at MASTER_ADDR:MASTER_PORT, averages
them and sends the mean back, so every rank takes the same step. At the end the ranks compare digests of
their weights, byte for byte. Rank 0 writes model.npz and metrics.json.
"""

import argparse
import contextlib
import hashlib
import json
import os
import socket
import struct
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy is loaded, or it has no effect

import numpy as np
from sklearn.datasets import load_digits

CLASSES = 10
BATCH = 128  # pictures per rank and step
LEARNING_RATE = 0.5
ENOUGH_ACCURACY = 0.9
MAX_STEPS = 100_000
MEET_DEADLINE_S = 40.0  # nodes may be loaded: a rank may start long after its neighbour
IO_TIMEOUT_S = 30.0
RETRY_S = 0.1
HEADER = struct.Struct("!Q")  # length of the frame that follows, in bytes
HELLO = struct.Struct("!4sII")  # mark, rank, world size
MARK = b"KZ01"
MAX_FRAME_BYTES = 16 * 1024 * 1024
DIGEST_BYTES = 32


class GangError(Exception):
    """The ranks cannot go on together; the message says why."""


def send_frame(peer, payload):
    peer.sendall(HEADER.pack(len(payload)) + payload)


def receive_exactly(peer, length):
    chunks = []
    while length:
        chunk = peer.recv(min(length, 1 << 20))
        if not chunk:
            raise GangError("a rank closed its connection in the middle")
        chunks.append(chunk)
        length -= len(chunk)
    return b"".join(chunks)


def receive_frame(peer, expected):
    (length,) = HEADER.unpack(receive_exactly(peer, HEADER.size))
    if length != expected or length > MAX_FRAME_BYTES:
        raise GangError(f"a frame of {length} bytes came where {expected} were expected")
    return receive_exactly(peer, length)


class Star:
    """Rank 0 in the middle, connected with every other rank; `peers` is ordered by rank."""

    def __init__(self, rank, world, address):
        self.rank, self.world = rank, world
        deadline = time.monotonic() + MEET_DEADLINE_S
        if world == 1:
            self.peers = []
        elif rank == 0:
            self.peers = self._gather(address, deadline)
        else:
            self.peers = [self._reach(address, deadline)]

    def _gather(self, address, deadline):
        found = {}
        with listen(address, deadline) as server:
            while len(found) < self.world - 1:
                server.settimeout(max(0.01, deadline - time.monotonic()))
                try:
                    peer, _ = server.accept()
                except TimeoutError:
                    raise GangError(f"only {len(found) + 1} of {self.world} ranks came") from None
                rank = self._greet(peer)
                if rank is None or rank in found:
                    peer.close()  # not of this gang
                    continue
                found[rank] = peer
        return [found[rank] for rank in sorted(found)]

    def _greet(self, peer):
        peer.settimeout(IO_TIMEOUT_S)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            mark, rank, world = HELLO.unpack(receive_exactly(peer, HELLO.size))
        except (GangError, OSError):
            return None
        return rank if mark == MARK and world == self.world and 0 < rank < world else None

    def _reach(self, address, deadline):
        while True:
            try:
                peer = socket.create_connection(address, timeout=IO_TIMEOUT_S)
            except OSError as cause:  # rank 0 may not listen yet
                if time.monotonic() > deadline:
                    raise GangError(f"rank 0 does not answer at {address[0]}:{address[1]}") from cause
                time.sleep(RETRY_S)
                continue
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            peer.sendall(HELLO.pack(MARK, self.rank, self.world))
            return peer

    def mean(self, values):
        """Mean of the float64 vectors of all ranks: the same bytes on every rank."""
        if self.world == 1:
            return values
        size = values.nbytes
        if self.rank:
            send_frame(self.peers[0], values.tobytes())
            return np.frombuffer(receive_frame(self.peers[0], size))
        total = values.copy()
        for peer in self.peers:  # in the order of ranks: a sum of floats depends on its order
            total += np.frombuffer(receive_frame(peer, size))
        total /= self.world
        payload = total.tobytes()
        for peer in self.peers:
            send_frame(peer, payload)
        return total

    def agree(self, digest):
        """Whether every rank has this digest; all ranks get the same answer."""
        if self.rank:
            send_frame(self.peers[0], digest)
            return receive_frame(self.peers[0], 1) == b"\x01"
        same = [receive_frame(peer, DIGEST_BYTES) == digest for peer in self.peers]
        for peer in self.peers:
            send_frame(peer, b"\x01" if all(same) else b"\x00")
        return all(same)

    def close(self):
        for peer in self.peers:
            peer.close()


@contextlib.contextmanager
def listen(address, deadline):
    """Listen at the address; tries again until the deadline, for whoever kept the port for us."""
    while True:
        server = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind(address)
            server.listen(128)
            break
        except OSError as cause:
            server.close()
            if time.monotonic() > deadline:
                raise GangError(f"rank 0 cannot listen at {address[0]}:{address[1]}: {cause}") from cause
            time.sleep(RETRY_S)
    with server:
        yield server


def gradient(weights, x, y):
    """Loss and gradient of softmax regression; `weights` is 65 x 10, the last row is the bias."""
    scores = x @ weights
    scores -= scores.max(axis=1, keepdims=True)
    odds = np.exp(scores)
    odds /= odds.sum(axis=1, keepdims=True)
    rows = np.arange(len(y))
    loss = float(-np.log(odds[rows, y] + 1e-12).mean())
    odds[rows, y] -= 1.0
    return loss, x.T @ odds / len(y)


def load_data():
    pictures, labels = load_digits(return_X_y=True)
    x = np.hstack([pictures / 16.0, np.ones((len(labels), 1))])
    is_test = np.arange(len(labels)) % 5 == 0
    return x[~is_test], labels[~is_test], x[is_test], labels[is_test]


def place_in_gang():
    try:
        rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        address = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
    except (KeyError, ValueError) as cause:
        raise GangError(f"RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT must be set: {cause!r}") from cause
    if not 0 <= rank < world:
        raise GangError(f"rank {rank} is not in a world of {world}")
    return rank, world, address


def train(star, steps, seed):
    x, y, test_x, test_y = load_data()
    mine_x, mine_y = x[star.rank :: star.world], y[star.rank :: star.world]
    weights = np.random.default_rng(seed).normal(0.0, 0.01, (65, CLASSES))
    chance = np.random.default_rng([seed, star.rank])  # each rank has its own batches
    for step in range(1, steps + 1):
        batch = chance.integers(0, len(mine_y), BATCH)
        loss, own = gradient(weights, mine_x[batch], mine_y[batch])
        mean = star.mean(np.append(own.ravel(), loss))
        weights -= LEARNING_RATE * mean[:-1].reshape(weights.shape)
        if step % 50 == 0 or step == steps:
            print(f"rank={star.rank} step={step}/{steps} mean_loss={mean[-1]:.4f}", flush=True)
    return weights, float(((test_x @ weights).argmax(axis=1) == test_y).mean())


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300, help=f"1 to {MAX_STEPS}")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if not 1 <= args.steps <= MAX_STEPS or args.seed < 0:
        parser.error(f"--steps takes 1 to {MAX_STEPS}, --seed 0 or more")

    rank, world, address = place_in_gang()
    star = Star(rank, world, address)
    print(f"rank={rank} world={world} connected master={address[0]}:{address[1]}", flush=True)
    with contextlib.closing(star):
        weights, right = train(star, args.steps, args.seed)
        digest = hashlib.sha256(weights.tobytes())
        if not star.agree(digest.digest()):
            raise GangError("the ranks ended with different weights")
    print(f"rank={rank} weights sha256={digest.hexdigest()} accuracy={right:.4f}", flush=True)
    if rank == 0:
        np.savez("model.npz", weights=weights)
        metrics = {"accuracy": right, "steps": args.steps, "world_size": world, "sha256": digest.hexdigest()}
        Path("metrics.json").write_text(json.dumps(metrics, indent=1), encoding="utf-8")
    return 0 if right >= ENOUGH_ACCURACY else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (GangError, OSError) as broken:
        print(f"gang broken: {broken}", file=sys.stderr)
        sys.exit(1)
