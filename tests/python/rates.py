"""How fast a program with nothing but generated stubs publishes and consumes.

usage: rates.py HOST:PORT PROTO_FOLDER TOPIC MEBIBYTES

Publishes batches of 64 KiB to partition 0 of the topic, which exists, then consumes as many through a new subscription, and prints
both rates in megabytes of messages a second as JSON. Counts and offsets are checked.
"""

import json
import pathlib
import queue
import struct
import sys
import tempfile
import threading
import time

import grpc
from grpc_tools import protoc

MESSAGE_BYTES = 1000
MESSAGES = 65
# Bytes on their way, as a quick client would have them.
WINDOW_BATCHES = 64
OPTIONS = [("grpc.max_receive_message_length", 8 << 20)]


def generate(protos, out):
    files = sorted(str(p.relative_to(protos)) for p in (protos / "alluvium" / "v1").glob("*.proto"))
    status = protoc.main(["protoc", f"-I{protos}", f"--python_out={out}", f"--grpc_python_out={out}", *files])
    assert status == 0, "the protos compile"


def crc32c(data):
    """CRC-32C (RFC 3720, appendix B.4), bit by bit for a table: used once."""
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def a_batch(message):
    """One batch, encoded once: what is measured is the transport of it, by gRPC and by the server."""
    body = bytes(range(250)) * (MESSAGE_BYTES // 250)
    blob = message.MessageBatch(messages=[message.Message(payload=body)] * MESSAGES).SerializeToString()
    head = struct.pack("<IBIQQQQ", MESSAGES, 0, len(blob), 0, 1, 0, 0)
    return message.Batch(count=MESSAGES, inflated_bytes=len(blob), publish_time_ms=1, checksum=crc32c(head + blob), blob=blob)


def publish(stub, pb, message, topic, batches):
    hello = message.Hello(protocol_version=1, client="rates")
    batch = a_batch(message)
    room = threading.Semaphore(WINDOW_BATCHES)

    def requests():
        yield pb.PublishStreamRequest(open=pb.PublishOpen(hello=hello, topic=topic))
        for number in range(batches):
            room.acquire()
            yield pb.PublishStreamRequest(batch=pb.PublishBatch(id=number, partition=0, batch=batch))

    begun = time.monotonic()
    stored = 0
    for response in stub.PublishStream(requests(), timeout=600):
        for receipt in response.receipts.receipts:
            assert not receipt.HasField("fault"), receipt
            assert receipt.id == stored, "receipts come in order"
            stored += 1
            room.release()
    assert stored == batches, f"{stored} of {batches} batches are stored"
    return time.monotonic() - begun


def consume(stub, pb, message, topic, batches):
    hello = message.Hello(protocol_version=1, client="rates")
    window = pb.Credit(messages=WINDOW_BATCHES * MESSAGES, bytes=WINDOW_BATCHES * (64 << 10) * 2)
    requests = queue.SimpleQueue()
    requests.put(pb.SubscribeRequest(open=pb.SubscribeOpen(
        hello=hello, topic=topic, subscription="rates", start=message.Position(earliest=message.Earliest()),
        format=pb.DELIVERY_FORMAT_BATCHES, credit=window)))
    begun = time.monotonic()
    responses = stub.Subscribe(iter(requests.get, None), timeout=600)
    taken, free, free_bytes, acks = 0, 0, 0, 0
    while taken < batches * MESSAGES:
        response = next(responses)
        assert not response.HasField("fault"), response
        for batch in response.delivery.batches:
            assert batch.first_offset == taken, "offsets are dense"
            taken += batch.batch.count
            free += batch.batch.count
            free_bytes += batch.batch.inflated_bytes
        if 2 * free >= window.messages:
            acks += 1
            requests.put(pb.SubscribeRequest(ack=pb.Ack(id=acks, partition=0, up_to=taken - 1)))
            requests.put(pb.SubscribeRequest(credit=pb.Credit(messages=free, bytes=free_bytes)))
            free = free_bytes = 0
    took = time.monotonic() - begun
    requests.put(None)
    responses.cancel()
    return took


def main():
    address, protos, topic, mebibytes = sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    generated = tempfile.TemporaryDirectory()
    generate(protos, generated.name)
    sys.path.insert(0, generated.name)
    from alluvium.v1 import consume_pb2, consume_pb2_grpc, message_pb2, publish_pb2, publish_pb2_grpc

    batches = max(1, (mebibytes << 20) // (MESSAGES * MESSAGE_BYTES))
    megabytes = batches * MESSAGES * MESSAGE_BYTES / 1e6
    channel = grpc.insecure_channel(address, OPTIONS)
    published = publish(publish_pb2_grpc.PublishServiceStub(channel), publish_pb2, message_pb2, topic, batches)
    consumed = consume(consume_pb2_grpc.ConsumeServiceStub(channel), consume_pb2, message_pb2, topic, batches)
    print(json.dumps({"batches": batches, "publishMBps": round(megabytes / published, 1), "consumeMBps": round(megabytes / consumed, 1)}))


if __name__ == "__main__":
    main()
