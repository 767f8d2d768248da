"""`make image-test`: builds the image from a hub on loopback, then sends the image jobs where there is no network.

It needs root, buildah, debootstrap, iproute2 and this checkout's .venv, but no Docker: buildah runs the Dockerfile's
steps in a chroot. The base is a minimal Debian (or BASE, which is pulled), the model the demo checkpoint, gated by a
token. pip has the same configuration inside as outside; the lock of torch is written anew for the wheel that pip then
finds, which may be a build for CPUs. IMAGE_TEST_DIR keeps base and layers for the next run.
"""

import ast
import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runpod_local import Platform
from tests.support.hub import COMMIT, Hub, Repo, sha256_of

ROOT = Path(__file__).parents[2]
KEPT = Path(os.environ.get("IMAGE_TEST_DIR", "/var/tmp/runpod-qwen-worker-image"))
BUILDAH = ["buildah", "--root", str(KEPT / "storage"), "--runroot", str(KEPT / "run")]
IMAGE, DEBIAN = "localhost/image-test", "localhost/image-test-base"
NAME, TOKEN = "tests/demo", "hf_that_must_stay_out_of_the_image"
#: directories over which RunPod mounts
MOUNTS = ("/runpod-volume", "/workspace", "/runpod")
#: packages of the Debian base
PACKAGES = "ca-certificates,python3,python3-venv,python-is-python3"
REQUESTS: dict[str, dict[str, Any]] = {
    "info": {"operation": "info", "sections": ["model"]},
    "chat": {"operation": "chat", "message": "Who are you?", "temperature": 0},
    "enhance": {"operation": "enhance", "prompt": "a red fox in the snow", "job_type": "sdxl_image_fast"},
}


def buildah(*arguments: str | Path) -> str:
    """Run a command of buildah; returns its standard output."""
    return subprocess.run([*BUILDAH, *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def debian() -> str:
    """The name of a base with Python that needs no registry; built once."""
    if not buildah("images", "--quiet", "--filter", f"reference={DEBIAN}"):
        tree = KEPT / "debian"
        shutil.rmtree(tree, ignore_errors=True)
        subprocess.run(["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", tree], check=True)
        container = buildah("from", "scratch")
        buildah("add", "--quiet", container, tree, "/")
        buildah("commit", "--quiet", "--rm", container, DEBIAN)
    return DEBIAN


def pip_as_here(scratch: Path) -> list[str]:
    """Options that mount the indexes, wheels and certificates that pip uses outside."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], check=True, stdout=subprocess.PIPE, text=True
    )
    options = dict(re.findall(r"^(?:global|:env:)\.([a-z-]+)=(.+)$", listed.stdout, re.MULTILINE))
    values = {name: str(ast.literal_eval(value)) for name, value in options.items()}
    config = scratch / "pip.conf"
    config.write_text("[global]\n" + "".join(f"{name} = {value}\n" for name, value in values.items()))
    mounts = {"/etc/pip.conf": str(config)}
    for url, path in re.findall(r"(file://|(?<!\S))(/\S+)", " ".join(values.values())):
        # an index on disk refers to files beside it
        shared = str(Path(path).parent) if url else path
        mounts[shared] = shared
    return [f"--volume={there}:{inside}:ro" for inside, there in mounts.items()]


def lock_torch_as_here(context: Path, scratch: Path) -> None:
    """Write requirements-cuda.lock for the wheel of torch that pip finds here; PyPI's stays as it is.

    A build for CPUs brings none of CUDA's libraries, and its hash is not PyPI's.
    """
    lock = context / "requirements-cuda.lock"
    entries = {entry.split("==")[0]: entry for entry in re.split(r"^(?=[a-z])", lock.read_text(), flags=re.M)[1:]}
    torch = entries["torch"].split()[0]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", scratch / "torch", torch]
    subprocess.run(command, check=True)
    (wheel,) = (scratch / "torch").iterdir()
    version, sha256 = wheel.name.split("-")[1], sha256_of(wheel)
    if sha256 not in entries["torch"]:
        lock.write_text(f"{entries['setuptools']}torch=={version} --hash=sha256:{sha256}\n")


def build(context: Path, hub: Hub, scratch: Path) -> list[str]:
    """Build the Dockerfile unchanged; returns the layers' digests, lowest first."""
    secret = scratch / "token"
    secret.write_text(TOKEN)
    # without the encoders' tokenizers, which are pinned to files that the hub on loopback does not have
    options = {"BASE": os.environ.get("BASE") or debian(), "MODELS": "weights", "HF_ENDPOINT": hub.url}
    options |= {"MODEL_NAME": NAME, "MODEL_REVISION": COMMIT}
    buildah(
        "build", "--isolation=chroot", "--layers", f"--secret=id=hf_token,src={secret}", *pip_as_here(scratch),
        *(f"--build-arg={name}={value}" for name, value in options.items()), f"--tag={IMAGE}", context,
    )  # fmt: skip
    layers: list[str] = json.loads(buildah("inspect", "--type=image", IMAGE))["OCIv1"]["rootfs"]["diff_ids"]
    return layers


def main() -> None:
    with tempfile.TemporaryDirectory() as directory, Hub({NAME: Repo(ROOT / "handler/model/demo", token=TOKEN)}) as hub:
        scratch = Path(directory)
        context = scratch / "context"
        context.mkdir()
        locks = ("requirements.lock", "requirements-cuda.lock", "requirements-sbom.lock")
        for name in ("Dockerfile", ".dockerignore", *locks, "LICENSE", "packs", "builder", "handler"):
            subprocess.run(["cp", "-a", ROOT / name, context], check=True)
        lock_torch_as_here(context, scratch)
        before = build(context, hub, scratch)
        assert hub.asked("model.safetensors"), "the weights did not come from the hub"

        hub.requests.clear()
        # not a file that the launcher's stage copies
        with (context / "handler" / "job.py").open("a") as module:
            module.write("# changed\n")
        after = build(context, hub, scratch)
        assert not hub.requests, "a change to the handler made the builder fetch the weights again"
        assert before != after, "the change is not in the image"
        assert before[:-2] == after[:-2], "the change rebuilt more than the handler's two layers"
        print(f"a change to the handler rebuilds 2 of {len(after)} layers")

    container = buildah("from", IMAGE)
    try:
        tree = Path(buildah("mount", container))
        found = subprocess.run(["grep", "-rlIF", TOKEN, tree], stdout=subprocess.PIPE, text=True).stdout
        assert not found, f"the secret is in the image: {found}"
        sbom = json.loads((tree / "opt/sbom.cdx.json").read_text(encoding="utf-8"))
        assert {"torch", "runpod"} <= {component["name"] for component in sbom["components"]}, (
            "the SBOM lacks libraries"
        )
        assert not list(tree.glob("opt/sbom/*")), "the tool that writes the SBOM is in the image"
        for program in ("gcc", "cc", "clang"):
            assert not list(tree.glob(f"usr/bin/{program}*")), f"{program} is in the image"
        subprocess.run(
            ["unshare", "--net", sys.executable, "-m", "tests.support.image", container], cwd=ROOT, check=True
        )
    finally:
        buildah("rm", container)
    print("the image serves without a network, with empty directories mounted where RunPod mounts")


def ask(container: str) -> None:
    """Start the image's command as a worker of a RunPod on loopback, and check its replies."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    assert len(Path("/proc/net/route").read_text().splitlines()) == 1, "this process has a route to a network"
    command = json.loads(buildah("inspect", container))["OCIv1"]["config"]["Cmd"]
    with tempfile.TemporaryDirectory() as empty:
        mounts = [f"--volume={empty}:{mount}" for mount in MOUNTS]
        asyncio.run(check(lambda env: [*BUILDAH, "run", "--isolation=chroot", *mounts, *env, container, *command]))


async def check(command_with: Callable[[list[str]], list[str]]) -> None:
    """Compare the worker's replies with those that the documents show of the same checkpoint.

    Args:
        command_with: from options that set environment variables to the command that starts the worker.
    """
    outputs = {}
    async with Platform() as platform:
        environment = {**platform.environment("worker-1"), "VERIFY_WEIGHTS": "hash"}
        async with platform.worker(command_with([f"--env={name}={value}" for name, value in environment.items()])):
            for name, request in REQUESTS.items():
                job = await platform.runsync(request, wait_s=180.0)
                assert job["status"] == "COMPLETED", f"{name}: {job}"
                outputs[name] = job["output"]
                print(f"{name}: {json.dumps(job['output'])[:200]}")
    model = outputs["info"]["model"]
    assert (model["source"], model["model_name"], model["revision"]) == ("baked", NAME, COMMIT)
    assert outputs["chat"]["response"].startswith("I am Demo"), outputs["chat"]["response"]
    enhanced = outputs["enhance"]["enhanced_prompt"]
    assert enhanced.startswith("a red fox in the snow, "), enhanced


if __name__ == "__main__":
    if sys.argv[1:]:
        ask(sys.argv[1])
    else:
        main()
