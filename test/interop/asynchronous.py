"""The Triton client's other ways of asking: calls in the background, asyncio, and gRPC streams."""
import asyncio
import queue

import numpy as np
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio
from tritonclient.utils import InferenceServerException

from harness import expect

ANSWER_SECONDS = 30
REQUESTS = 100


def image(module, rows):
    given = module.InferInput("image", list(rows.shape), "FP32")
    given.set_data_from_numpy(rows)
    return [given]


def message(result):
    return result.get_response()


async def fails(call, *words):
    try:
        await call
    except InferenceServerException as e:
        for word in words:
            expect(word in str(e), f"the message does not say {word!r}: {e}")
        return
    raise AssertionError("the call was answered")


# ---------------------------------------------------------------- calls in the background

def test_http_async_infer(world):
    client = tritonclient.http.InferenceServerClient(world.server.addresses["http"], concurrency=8)
    try:
        pending = [client.async_infer("digits", image(tritonclient.http, world.images[i:i + 1]), request_id=f"r{i}") for i in range(REQUESTS)]
        wrong = client.async_infer("nobody", image(tritonclient.http, world.images[:1]))
        labels = []
        for i, answer in enumerate(pending):
            result = answer.get_result(timeout=ANSWER_SECONDS)
            expect(message(result)["id"] == f"r{i}", f"answer {i} has the id {message(result)['id']}")
            labels.append(result.as_numpy("label")[0])
        expect(labels == list(world.expected[:REQUESTS]), "labels differ from those of a batch")
        try:
            wrong.get_result(timeout=ANSWER_SECONDS)
            raise AssertionError("an unknown model was answered")
        except InferenceServerException as e:
            expect(e.status() == "404" and "nobody" in e.message(), e)
    finally:
        client.close()


def test_grpc_async_infer(world):
    answers = queue.Queue()
    with tritonclient.grpc.InferenceServerClient(world.server.addresses["grpc"]) as client:
        for i in range(REQUESTS):
            client.async_infer("digits", image(tritonclient.grpc, world.images[i:i + 1]),
                               lambda result, error: answers.put((result, error)), request_id=str(i))
        labels = {}
        for _ in range(REQUESTS):
            result, error = answers.get(timeout=ANSWER_SECONDS)
            expect(error is None, error)
            labels[int(message(result).id)] = result.as_numpy("label")[0]
        expect([labels[i] for i in range(REQUESTS)] == list(world.expected[:REQUESTS]), "labels differ from those of a batch")
        client.async_infer("nobody", image(tritonclient.grpc, world.images[:1]), lambda result, error: answers.put((result, error)))
        _, error = answers.get(timeout=ANSWER_SECONDS)
        expect(error is not None and error.status() == "StatusCode.NOT_FOUND", error)


def test_grpc_cancel(world):
    """A call that is given up ends, and the server answers the next."""
    answers = queue.Queue()
    with tritonclient.grpc.InferenceServerClient(world.server.addresses["grpc"]) as client:
        many = np.repeat(world.images, 50, axis=0)
        calls = [client.async_infer("digits", image(tritonclient.grpc, many), lambda result, error: answers.put((result, error))) for _ in range(8)]
        for call in calls:
            call.cancel()
        for _ in calls:
            result, error = answers.get(timeout=ANSWER_SECONDS)
            expect(result is not None or "CANCELLED" in str(error.status()), error)  # some may have been faster
        found = client.infer("digits", image(tritonclient.grpc, world.images[:5])).as_numpy("label")
        expect((found == world.expected[:5]).all(), found)


def test_grpc_client_timeout(world):
    with tritonclient.grpc.InferenceServerClient(world.server.addresses["grpc"]) as client:
        # The client makes a millisecond of it, and some answers come sooner.
        for _ in range(1000):
            try:
                client.infer("digits", image(tritonclient.grpc, world.images), client_timeout=0.000001)
            except InferenceServerException as e:
                expect(e.status() == "StatusCode.DEADLINE_EXCEEDED", e)
                return
        raise AssertionError("a thousand answers came within a microsecond each")


# ---------------------------------------------------------------- asyncio, the same calls over both

def both(walk):
    """A test that walks over the HTTP and the gRPC client of asyncio."""
    def test(world):
        async def over(module, address):
            async with module.InferenceServerClient(address) as client:
                await asyncio.wait_for(walk(world, module, client), ANSWER_SECONDS)
        asyncio.run(over(tritonclient.http.aio, world.server.addresses["http"]))
        asyncio.run(over(tritonclient.grpc.aio, world.server.addresses["grpc"]))
    return test


@both
async def test_aio_health_and_metadata(_, module, client):
    expect(await client.is_server_live() and await client.is_server_ready() and await client.is_model_ready("digits"), "not ready")
    found = await client.get_server_metadata()
    expect((found["name"] if isinstance(found, dict) else found.name), "no name")
    found = await client.get_model_metadata("digits")
    expect((found["name"] if isinstance(found, dict) else found.name) == "digits", found)


@both
async def test_aio_infer(world, module, client):
    answer = await client.infer("digits", image(module, world.images))
    expect((answer.as_numpy("label") == world.expected).all(), "labels differ")


@both
async def test_aio_many_at_once(world, module, client):
    answers = await asyncio.gather(*(client.infer("digits", image(module, world.images[i:i + 1]), request_id=str(i)) for i in range(REQUESTS)))
    expect([a.as_numpy("label")[0] for a in answers] == list(world.expected[:REQUESTS]), "labels differ")
    ids = [a.get_response()["id"] if isinstance(a.get_response(), dict) else a.get_response().id for a in answers]
    expect(ids == [str(i) for i in range(REQUESTS)], "ids are mixed up")


@both
async def test_aio_errors(world, module, client):
    await fails(client.infer("nobody", image(module, world.images[:1])), "nobody")
    await fails(client.infer("digits", image(module, world.images[:1, :63])), "image")
    answer = await client.infer("digits", image(module, world.images[:3]))
    expect((answer.as_numpy("label") == world.expected[:3]).all(), "no answer after an error")


def test_aio_grpc_stream(world):
    module = tritonclient.grpc.aio

    async def asked():
        for i in range(20):
            yield {"model_name": "digits", "inputs": image(module, world.images[i:i + 1]), "request_id": str(i)}
        yield {"model_name": "nobody", "inputs": image(module, world.images[:1]), "request_id": "wrong"}

    async def walk():
        async with module.InferenceServerClient(world.server.addresses["grpc"]) as client:
            labels, errors = {}, []
            async for result, error in client.stream_infer(asked()):
                if error is not None:
                    errors.append(str(error))
                else:
                    labels[int(message(result).id)] = result.as_numpy("label")[0]
            expect([labels.get(i) for i in range(20)] == list(world.expected[:20]), f"labels differ: {labels}")
            expect(len(errors) == 1 and "nobody" in errors[0], errors)
    asyncio.run(asyncio.wait_for(walk(), ANSWER_SECONDS))


# ---------------------------------------------------------------- streams

class Stream:
    """An open stream of a client of its own."""

    def __init__(self, world, **options):
        self.client = tritonclient.grpc.InferenceServerClient(world.server.addresses["grpc"])
        self.answers = queue.Queue()
        self.client.start_stream(lambda result, error: self.answers.put((result, error)), **options)

    def ask(self, rows, name="digits", **more):
        self.client.async_stream_infer(name, image(tritonclient.grpc, rows), **more)

    def next(self):
        return self.answers.get(timeout=ANSWER_SECONDS)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.client.stop_stream()
        self.client.close()


def final(result):
    return message(result).parameters["triton_final_response"].bool_param


def test_stream(world):
    with Stream(world) as stream:
        for i in range(REQUESTS):
            stream.ask(world.images[i:i + 1], request_id=str(i))
        labels = {}
        for _ in range(REQUESTS):
            result, error = stream.next()
            expect(error is None, error)
            labels[int(message(result).id)] = result.as_numpy("label")[0]
        expect([labels.get(i) for i in range(REQUESTS)] == list(world.expected[:REQUESTS]), "labels differ from those of a batch")
    expect(stream.answers.empty(), "more answers than requests")


def test_stream_ends_of_decoupled_answers(world):
    """Clients of decoupled models count the ends: each request has exactly one, with its answer or after it."""
    with Stream(world) as stream:
        for i in range(10):
            stream.ask(world.images[i:i + 1], request_id=str(i), enable_empty_final_response=True)
        ends, labels = [], {}
        while len(ends) < 10:
            result, error = stream.next()
            expect(error is None, error)
            name = int(message(result).id)
            expect(name not in ends, f"request {name} has an answer after its end")
            if message(result).outputs:
                expect(name not in labels, f"request {name} is answered twice")
                labels[name] = result.as_numpy("label")[0]
            if final(result):
                ends.append(name)
        expect([labels.get(i) for i in range(10)] == list(world.expected[:10]), f"labels differ: {labels}")


def test_stream_goes_on_after_errors(world):
    with Stream(world) as stream:
        for rows, name, word in ((world.images[:1], "nobody", "nobody"), (world.images[:1, :63], "digits", "image")):
            stream.ask(rows, name)
            result, error = stream.next()
            expect(result is None and word in str(error), f"{word}: {error}")
            stream.ask(world.images[:2])
            result, error = stream.next()
            expect(error is None and (result.as_numpy("label") == world.expected[:2]).all(), f"after an error: {error}")


def test_stream_with_grpc_errors(world):
    """With triton_grpc_error the stream itself ends with the status."""
    with Stream(world, headers={"triton_grpc_error": "true"}) as stream:
        stream.ask(world.images[:1])
        _, error = stream.next()
        expect(error is None, error)
        stream.ask(world.images[:1], "nobody")
        result, error = stream.next()
        expect(result is None and error.status() == "StatusCode.NOT_FOUND", error)


def test_two_streams(world):
    with Stream(world) as one, Stream(world) as two:
        for i in range(20):
            (one if i % 2 else two).ask(world.images[i:i + 1], request_id=str(i))
        for stream, odd in ((one, 1), (two, 0)):
            found = {int(message(stream.next()[0]).id) for _ in range(10)}
            expect(found == set(range(odd, 20, 2)), f"{found}")
