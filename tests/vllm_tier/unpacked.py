"""For vLLM's CPU workers (`--worker-extension-cls unpacked.Worker`): no packed weights.

oneDNN packs weights when they are loaded; a head that is tied to the embeddings keeps its packed ones when they are
loaded again, so that pushed weights would not reach it. (`VLLMServerEngine.check` finds that.)
"""

import vllm._custom_ops as custom_ops

custom_ops._supports_onednn = False


class Worker:
    """Adds nothing; importing this module in the worker is what counts."""
