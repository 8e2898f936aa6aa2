"""All systems of the comparison, in the order in which they are shown."""

from __future__ import annotations

from typing import Final

from bench.peers.centrifugo import Centrifugo
from bench.peers.gonets import Bare, Gonets
from bench.peers.jetstream import JetStream, JetStreamAlways
from bench.peers.kafka import Kafka, KafkaFlushed
from bench.peers.mosquitto import Mosquitto
from bench.peers.nats import NatsCore
from bench.peers.redis import RedisPubSub, RedisStreams
from bench.peers.system import System
from bench.peers.umadb import UmaDb

SYSTEMS: Final[tuple[System, ...]] = (
    Bare(),
    Gonets(),
    RedisPubSub(),
    RedisStreams(),
    NatsCore(),
    JetStream(),
    JetStreamAlways(),
    Mosquitto(),
    Centrifugo(),
    Kafka(),
    KafkaFlushed(),
    UmaDb(),
)
