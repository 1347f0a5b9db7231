"""Runs clients that we did not write, and clients that know only the protocol, against a real server.

    main.py BINARY DEMO-FOLDER [NAME=PROGRAM ...]

It starts the server itself, pushes and deploys models with the command line, and ends the server by its process id. Each
PROGRAM is a client in another language, or a reason in the form NAME=!why it is not run. Use test/interop/run.sh, which
makes the environment and the programs.
"""
import os
import pathlib
import sys

import asynchronous
import datatypes
import extensions
import foreign
import plain
import signature
from harness import Client, Report, Server, World, expect, tests_of

PROTOCOLS = ("http", "json", "grpc")


def deploy(world):
    world.deploy("digits", 1, "digits-v1.onnx")
    world.deploy("cancer", 1, "cancer-v1.onnx")
    world.learn()


def deploy_mirror(world):
    path = world.server.folder / "mirror.onnx"
    datatypes.make(path)
    world.deploy(datatypes.MODEL, 1, path)


def walk(world, report, programs):
    """All tests in turn; those that unload or roll back come after those that only ask."""
    if not report.run("push and deploy", lambda: deploy(world)):
        return
    over_each = tests_of(plain)
    if report.run("push and deploy a model of every datatype", lambda: deploy_mirror(world)):
        over_each += [(f"datatype {name}", datatypes.of(name)) for name in datatypes.VALUES] + tests_of(datatypes)
    over_each += tests_of(extensions)
    for protocol in PROTOCOLS:
        with Client(world.server, protocol) as client:
            for name, test in over_each:
                report.run(f"{name} over {protocol}", lambda: test(world, client))
    for name, test in tests_of(asynchronous):
        report.run(name, lambda: test(world))
    for name, test in tests_of(signature):
        report.run(name, lambda: test(world))
    for name, program in programs:
        foreign.client(world, report, name, program)
    for protocol in ("http", "grpc"):
        report.run(f"perf_analyzer over {protocol}", lambda: foreign.perf_analyzer(world, protocol))
    report.run("rollback under load", lambda: plain.rollback_under_load(world))


def main():
    binary, demo = os.path.abspath(sys.argv[1]), pathlib.Path(sys.argv[2]).resolve()
    programs = [argument.split("=", 1) for argument in sys.argv[3:]]
    report = Report()
    server = Server(binary)
    try:
        walk(World(server, demo), report, programs)
        report.run("the server runs on", lambda: expect(server.process.poll() is None, "it ended by itself"))
    finally:
        report.run("stop", lambda: expect(server.stop(), "it did not end by itself"))
        if report.failed:
            print(f"the server's log ends:\n{server.tail()}")
        server.remove()
    print(report.summary())
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
