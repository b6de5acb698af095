"""vLLM's own server on loopback, started by a test."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

PATIENCE = 180  # seconds for the server to start


class Server:
    """vLLM's own server, in a process group of its own."""

    def __init__(self, model, log, *more, **environment):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/v1"
        flags = {"model": model, "host": "127.0.0.1", "port": port, "dtype": "float32", "max-model-len": 256}
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--enforce-eager"]
        command += [str(part) for name, value in flags.items() for part in (f"--{name}", value)]
        command += more
        environment |= {
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_NO_USAGE_STATS": "1",
        }
        self.process = subprocess.Popen(
            command, env=os.environ | environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        for _ in range(2 * PATIENCE):
            try:
                urllib.request.urlopen(f"{self.url}/models", timeout=5).close()
                return
            except OSError:
                assert self.process.poll() is None, "the server ended: see its log"
                time.sleep(0.5)
        self.kill()
        raise AssertionError("the server did not start")

    def kill(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
