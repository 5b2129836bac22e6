"""Publishes, subscribes, acknowledges, gives back and seeks with nothing but generated stubs.

usage: client.py HOST:PORT PROTO_FOLDER

Every step is checked; the first thing that is not as promised ends the program with an AssertionError.
"""

import pathlib
import queue
import sys
import tempfile

import grpc
from grpc_tools import protoc


def generate(protos: pathlib.Path, out: str) -> None:
    files = sorted(str(p.relative_to(protos)) for p in (protos / "alluvium" / "v1").glob("*.proto"))
    status = protoc.main(["protoc", f"-I{protos}", f"--python_out={out}", f"--grpc_python_out={out}", *files])
    assert status == 0, "the protos compile"


class Consumer:
    """A subscribe stream: requests go through a queue, responses come one by one."""

    def __init__(self, stub, pb, **opening):
        self.pb = pb
        self.requests = queue.Queue()
        self.requests.put(pb.SubscribeRequest(open=opening_message(pb, **opening)))
        self.responses = stub.Subscribe(iter(self.requests.get, None), timeout=60)
        assert next(self.responses).HasField("subscribed"), "the first answer says what was subscribed"

    def take(self, count):
        """The next messages, as (partition, offset, payload, attempt)."""
        taken = []
        while len(taken) < count:
            delivery = next(self.responses).delivery
            taken += [(delivery.partition, m.offset, m.message.payload, m.attempt) for m in delivery.messages]
        return taken

    def ack(self, partition, first, last):
        ranges = [message.OffsetRange(first=first, last=last)]
        self.requests.put(self.pb.SubscribeRequest(ack=self.pb.Ack(id=1, partition=partition, ranges=ranges)))
        receipt = next(self.responses).receipts.receipts[0]
        assert receipt.id == 1 and not receipt.HasField("fault"), f"the acknowledgement is durable: {receipt}"

    def nack(self, partition, offset):
        ranges = [message.OffsetRange(first=offset, last=offset)]
        self.requests.put(self.pb.SubscribeRequest(nack=self.pb.StreamNack(partition=partition, ranges=ranges)))

    def close(self):
        self.responses.cancel()
        self.requests.put(None)


def opening_message(pb, **fields):
    return pb.SubscribeOpen(hello=message.Hello(protocol_version=1, client="plain-stubs"), **fields)


def main() -> None:
    global message
    address, protos = sys.argv[1], pathlib.Path(sys.argv[2])
    generated = tempfile.TemporaryDirectory()
    generate(protos, generated.name)
    sys.path.insert(0, generated.name)
    from alluvium.v1 import admin_pb2, admin_pb2_grpc, connect_pb2, connect_pb2_grpc, consume_pb2, consume_pb2_grpc
    from alluvium.v1 import message_pb2 as message
    from alluvium.v1 import publish_pb2, publish_pb2_grpc

    channel = grpc.insecure_channel(address)
    negotiated = connect_pb2_grpc.ConnectServiceStub(channel).Negotiate(
        connect_pb2.NegotiateRequest(protocol_version_min=1, protocol_version_max=9, client="plain-stubs"), timeout=10)
    assert negotiated.protocol_version == 1, negotiated

    topic = "public/default/any-language"
    admin_pb2_grpc.TopicServiceStub(channel).CreateTopic(admin_pb2.CreateTopicRequest(name=topic, partitions=1), timeout=10)

    # Publish: unary, ten messages.
    publish = publish_pb2_grpc.PublishServiceStub(channel)
    messages = [message.Message(payload=b"m%d" % n, key=b"k", headers=[message.Header(name="n", value=b"%d" % n)]) for n in range(10)]
    ids = publish.Publish(publish_pb2.PublishRequest(topic=topic, messages=messages), timeout=10).ids
    assert [(i.partition, i.offset) for i in ids] == [(0, n) for n in range(10)], ids

    # Subscribe from the beginning; credit of 1 means 1.
    consume = consume_pb2_grpc.ConsumeServiceStub(channel)
    consumer = Consumer(consume, consume_pb2, topic=topic, subscription="s", type=consume_pb2.SUBSCRIPTION_TYPE_SHARED,
                        start=message.Position(earliest=message.Earliest()),
                        credit=consume_pb2.Credit(messages=1, bytes=1 << 20))
    assert consumer.take(1) == [(0, 0, b"m0", 1)]
    consumer.requests.put(consume_pb2.SubscribeRequest(credit=consume_pb2.Credit(messages=9, bytes=1 << 20)))
    assert consumer.take(9) == [(0, n, b"m%d" % n, 1) for n in range(1, 10)]

    # Acknowledge four; give one back and get it again.
    consumer.ack(0, 0, 3)
    consumer.requests.put(consume_pb2.SubscribeRequest(credit=consume_pb2.Credit(messages=1, bytes=1 << 20)))
    consumer.nack(0, 7)
    assert consumer.take(1) == [(0, 7, b"m7", 2)]
    consumer.close()

    # What was not acknowledged is delivered again once the consumer is gone, here by unary calls; the rest is not.
    pulled = []
    while len(pulled) < 6:
        answer = consume.Pull(consume_pb2.PullRequest(topic=topic, subscription="s", messages_max=10, wait_ms=10_000), timeout=20)
        assert answer.messages, "the unacknowledged come back within the wait"
        pulled += [m.message.offset for m in answer.messages]
    assert sorted(pulled) == [4, 5, 6, 7, 8, 9], pulled
    consume.Nack(consume_pb2.NackRequest(topic=topic, subscription="s", ids=[message.MessageId(partition=0, offset=9)]), timeout=10)
    again = consume.Pull(consume_pb2.PullRequest(topic=topic, subscription="s", messages_max=10, wait_ms=10_000), timeout=20)
    assert [m.message.offset for m in again.messages] == [9], again
    consume.Acknowledge(consume_pb2.AcknowledgeRequest(
        topic=topic, subscription="s", ids=[message.MessageId(partition=0, offset=n) for n in range(4, 10)]), timeout=10)
    subscriptions = admin_pb2_grpc.SubscriptionServiceStub(channel)
    stats = subscriptions.GetSubscriptionStats(admin_pb2.GetSubscriptionStatsRequest(topic=topic, name="s"), timeout=10)
    assert [(p.next_offset, p.end_offset, p.backlog) for p in stats.partitions] == [(10, 10, 0)], stats

    # Seek back, and read the end again.
    subscriptions.SeekSubscription(
        admin_pb2.SeekSubscriptionRequest(topic=topic, name="s", position=message.Position(offset=8)), timeout=10)
    again = consume.Pull(consume_pb2.PullRequest(topic=topic, subscription="s", messages_max=10, wait_ms=10_000), timeout=20)
    assert [m.message.offset for m in again.messages] == [8, 9], again

    # A bad request is told what is wrong with it.
    try:
        publish.Publish(publish_pb2.PublishRequest(topic="public/default/..", messages=messages[:1]), timeout=10)
        raise AssertionError("a bad name is refused")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT and "topic" in error.details(), error
    print("ok: published, subscribed, acknowledged, gave back, pulled and sought with plain stubs")


if __name__ == "__main__":
    main()
