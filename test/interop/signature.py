"""Signatures, with a client that we did not write: securesystemslib, the library under in-toto and TUF. It verifies what
`penstock sign` wrote, finds a changed byte, and signs what `penstock verify` and a trust policy take."""
import copy
import hashlib
import json
import pathlib

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key, load_pem_public_key
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import CryptoSigner, SSlibKey

from harness import expect

ENVELOPE = "application/vnd.dsse.envelope.v1+json"


def public_key(path):
    """A key under the name that Penstock gives it: the SHA-256 of its DER."""
    text = pathlib.Path(path).read_bytes()
    key = load_pem_public_key(text)
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return SSlibKey.from_crypto(key, keyid=hashlib.sha256(der).hexdigest())


def signed(world, algorithm, model):
    """Pushes a model, signs it, and gives the folder that it was pulled to, with its key."""
    folder = world.server.folder / f"signed-{algorithm}"
    folder.mkdir()
    key = folder.parent / f"{algorithm}.key"
    world.server.command("sign", "keygen", str(key), "--algorithm", algorithm)
    world.server.command("push", str(world.demo / "cancer-v1.onnx"), model)
    world.server.command("sign", "--sign-key", str(key), f"{model}@1")
    world.server.command("pull", f"{model}@1", "--to", str(folder), "--signatures")
    return folder, key


def theirs_verifies_ours(world, algorithm):
    folder, key = signed(world, algorithm, f"signed-{algorithm}")
    (path,) = (folder / ".signatures").iterdir()
    document = json.loads(path.read_text())
    trusted = public_key(f"{key}.pub")
    envelope = Envelope.from_dict(copy.deepcopy(document))
    accepted = envelope.verify([trusted], 1)
    expect(trusted.keyid in accepted, f"accepted {accepted}")
    statement = json.loads(envelope.payload)
    want = hashlib.sha256((folder / "cancer-v1.onnx").read_bytes()).hexdigest()
    expect({"name": "cancer-v1.onnx", "algorithm": "sha256", "digest": want} in statement["predicate"]["resources"],
           f"the statement names {statement['predicate']['resources']}")
    changed = Envelope.from_dict(copy.deepcopy(document))
    changed.payload = changed.payload.replace(want[:8].encode(), b"00000000")
    try:
        changed.verify([trusted], 1)
    except VerificationError:
        return
    raise AssertionError("a changed statement was verified")


def ours_verifies_theirs(world, algorithm):
    folder, key = world.server.folder / f"signed-{algorithm}", world.server.folder / f"{algorithm}.key"  # made by the test before
    (path,) = (folder / ".signatures").iterdir()
    ours = Envelope.from_dict(json.loads(path.read_text()))
    signer = CryptoSigner(load_pem_private_key(pathlib.Path(key).read_bytes(), None), public_key(f"{key}.pub"))
    made = Envelope(ours.payload, ours.payload_type, {})
    made.sign(signer)
    document = made.to_dict()
    document["signatures"] = list(document["signatures"])
    theirs = world.server.folder / f"theirs-{algorithm}.json"
    theirs.write_text(json.dumps(document))
    printed = world.server.command("verify", "--sign-key", f"{key}.pub", "--signature", str(theirs), str(folder))
    expect("is verified" in printed, f"verify printed {printed!r}")
    world.server.command("attach", f"signed-{algorithm}@1", str(theirs), "--type", ENVELOPE)


def test_securesystemslib_verifies_ed25519(world):
    theirs_verifies_ours(world, "ed25519")


def test_securesystemslib_verifies_ecdsa(world):
    theirs_verifies_ours(world, "ecdsa-p256")


def test_securesystemslib_signs_ed25519(world):
    ours_verifies_theirs(world, "ed25519")


def test_securesystemslib_signs_ecdsa(world):
    ours_verifies_theirs(world, "ecdsa-p256")
