"""Language models: training, tuning, serving, decoding.

Start with `load(folder)` for a published checkpoint, or with `train(out="runs/tiny")` for a model
of your own; `generate` continues text, `finetune` teaches it to follow instructions, `dpo` what
answers are preferred, `serve` answers clients of the OpenAI API.
"""

from paragone._core.lazy import lazy_exports

_MODULES = {
    "config": ("LlamaConfig",),
    "llama": ("Llama", "LlamaOutput"),
    "moe": ("MixtureOfExperts",),
    "checkpoints": ("load", "save"),
    "tokenizer": ("Tokenizer",),
    "chat": ("ChatTemplate",),
    "rows": ("read_pairs", "read_rows"),
    "packing": ("pack",),
    "losses": ("token_log_probs", "token_loss"),
    "train": ("train",),
    "sampling": ("Sampling",),
    "engine": ("Engine",),
    "generate": ("Generated", "generate"),
    "drafting": ("Draft", "Drafter", "Plan"),
    "prompt_lookup": ("PromptLookup",),
    "draft_model": ("DraftModel",),
    "medusa": ("Medusa",),
    "eagle": ("Eagle",),
    "multi_token_prediction": ("MultiTokenPrediction",),
    "serve": ("serve",),
    "rouge": ("rouge_l",),
    "self_instruct": ("self_instruct",),
    "lora": ("add_lora", "merge_lora", "load_adapter", "save_adapter"),
    "finetune": ("finetune",),
    "dpo": ("dpo",),
    "reward_model": ("RewardModel", "reward_model"),
    "ppo": ("ppo",),
    "grpo": ("grpo",),
}

_TARGETS = {
    name: f"paragone.language.{module}:{name}"
    for module, names in _MODULES.items()
    for name in names
}

__getattr__, __dir__ = lazy_exports(__name__, _TARGETS)

__all__ = [*_TARGETS]  # pyright: ignore[reportUnsupportedDunderAll]
