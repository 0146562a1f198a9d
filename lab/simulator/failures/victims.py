"""What the job itself suffers: RNICs count what was lost between them, wherever it was lost."""

from __future__ import annotations

import numpy as np

from exporter.contracts.counters import RNIC_ACK_TIMEOUTS, RNIC_OUT_OF_SEQUENCE, RNIC_SEQUENCE_ERRORS
from lab.simulator.failures.scene import Scene

LOST_PER_SECOND = 200.0  # of the packets that a job's flow sends a second, were all of them lost


def retransmissions(scene: Scene) -> None:
    """Count the losses of every failure at the RNICs between which it happens: gaps where packets arrive, and at the
    senders what they are told of. Where nothing arrives nobody tells: the sender's timer runs out."""
    computing = scene.wiring.computing
    for effect in scene.effects:
        if effect.loss == 0 or effect.failure is None or effect.links is None:
            continue
        felt, _ = effect.felt(scene.first)
        if not felt.any():
            continue
        pairs = np.unique(np.stack([scene.flows.source[felt], scene.flows.destination[felt]]), axis=1)
        for place, metrics in enumerate(((RNIC_ACK_TIMEOUTS, RNIC_SEQUENCE_ERRORS), (None, RNIC_OUT_OF_SEQUENCE))):
            metric = metrics[effect.loss < 1]
            if metric is None:
                continue
            rnics, peers = np.unique(pairs[place], return_counts=True)
            for rnic, number in zip(rnics.tolist(), peers.tolist(), strict=True):
                if rnic < computing:
                    rate = LOST_PER_SECOND * effect.loss * number if effect.loss < 1 else float(number)
                    scene.count(metric, scene.wiring.rnics[rnic], rate=rate, windows=effect.windows)
