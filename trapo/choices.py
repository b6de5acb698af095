"""What the fields of a configuration may be."""

# In the order in which they are offered; STAGES also in the order in which a run goes through them.
STAGES = ("sft", "rl")
ENGINES = ("auto", "torch", "transformers", "vllm", "vllm-server")
ROLLOUT_WEIGHTS = ("copy", "autocast")
ENGINE_GRAPHS = ("auto", "off")
SCHEDULES = ("speculative", "pipelined", "barrier")
TEMPLATES = ("tokenizer", "reference", "reference-eval", "raw")
EXPERT_TEXTS = ("all", "think")
TOO_LONG = ("cut", "keep-eos", "drop")
SPECIAL_TOKENS = ("drop", "escape", "keep")
EXPERT_REDUCTIONS = ("joint", "tokens")
ENTROPY_TOKENS = ("own", "trained", "response")
GRADERS = ("own", "reference", "luffy")
FAILED_ORDERS = ("oldest", "newest")
# Loss types whose one denominator can be told from that of a mean over the expert's tokens.
TOKEN_MEANS = ("dr_grpo", "dapo", "cispo", "vespo")
# One gradient whatever the split into micro-batches: TRL's loss types whose denominator does not depend on the split.
SPLIT_INVARIANT_LOSSES = ("dr_grpo", "dapo", "grpo", "cispo", "sapo", "vespo", "luspo")
