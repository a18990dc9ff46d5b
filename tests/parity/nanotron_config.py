"""Reads a config that `pipeline nanotron` wrote as nanotron does: PyYAML, then its config classes.

    pip install pyyaml
    pipeline nanotron workflows/cosmopedia_v2.toml --gpus 8 --output train.yaml
    python tests/parity/nanotron_config.py train.yaml

nanotron on PyPI (0.4) is older than the classes that SmolLM was trained with (`NanosetDatasetsArgs`, the decay
`1-sqrt`). Where a newer one is installed its own classes read the file; otherwise its fields and their types are
compared with theirs (huggingface/nanotron `src/nanotron/config/config.py` and `models_config.py`).
"""

import pathlib
import sys

import yaml

number, text, yes, nothing = (int, float), str, bool, type(None)
FIELDS = {
    "general": {
        "project": text, "run": text, "seed": int, "step": nothing, "consumed_train_samples": nothing,
        "benchmark_csv_path": nothing, "ignore_sanity_checks": yes,
    },
    "parallelism": {
        "dp": int, "pp": int, "tp": int, "pp_engine": text, "tp_mode": text, "tp_linear_async_communication": yes,
        "recompute_layer": yes, "tp_recompute_allgather": yes, "expert_parallel_size": int,
    },
    "model": {
        "ddp_bucket_cap_mb": int, "dtype": text, "init_method": {"std": float}, "make_vocab_size_divisible_by": int,
        "model_config": {
            "bos_token_id": int, "eos_token_id": int, "hidden_act": text, "hidden_size": int, "initializer_range": float,
            "intermediate_size": int, "is_llama_config": yes, "max_position_embeddings": int,
            "num_attention_heads": int, "num_hidden_layers": int, "num_key_value_heads": int, "pad_token_id": nothing,
            "pretraining_tp": int, "rms_norm_eps": float, "rope_scaling": nothing, "rope_theta": float,
            "tie_word_embeddings": yes, "use_cache": yes, "vocab_size": int,
        },
    },
    "tokenizer": {"tokenizer_name_or_path": text, "tokenizer_revision": nothing, "tokenizer_max_length": nothing},
    "checkpoints": {
        "checkpoints_path": text, "checkpoint_interval": int, "save_initial_state": yes, "save_final_state": yes,
        "resume_checkpoint_path": nothing, "checkpoints_path_is_shared_file_system": yes,
    },
    "logging": {"log_level": text, "log_level_replica": text, "iteration_step_info_interval": int},
    "tokens": {
        "sequence_length": int, "train_steps": int, "micro_batch_size": int, "batch_accumulation_per_replica": int,
        "val_check_interval": int, "limit_val_batches": int, "limit_test_batches": int,
    },
    "optimizer": {
        "optimizer_factory": {
            "adam_eps": float, "adam_beta1": float, "adam_beta2": float, "torch_adam_is_fused": yes, "name": text,
        },
        "zero_stage": int, "weight_decay": number, "clip_grad": number, "accumulate_grad_in_fp32": yes,
        "learning_rate_scheduler": {
            "learning_rate": float, "lr_warmup_steps": int, "lr_warmup_style": text, "lr_decay_style": text,
            "lr_decay_steps": int, "lr_decay_starting_step": int, "min_decay_lr": number,
        },
    },
    "data_stages": [
        {
            "name": text, "start_training_step": int,
            "data": {
                "seed": int, "num_loading_workers": int,
                "dataset": {
                    "dataset_folder": [text], "dataset_weights": [number], "tokenizer_name": text, "vocab_size": int,
                    "token_size_in_bytes": int,
                },
            },
        }
    ],
    "profiler": nothing,
}


def compare(value, wanted, place):
    if isinstance(wanted, dict):
        assert isinstance(value, dict) and value.keys() == wanted.keys(), f"{place}: {value} for {sorted(wanted)}"
        for name, own in wanted.items():
            compare(value[name], own, f"{place}.{name}")
    elif isinstance(wanted, list):
        assert isinstance(value, list) and value, f"{place}: {value!r} is no list"
        for item in value:
            compare(item, wanted[0], f"{place}[]")
    else:
        is_flag = isinstance(value, bool) and wanted is not bool
        assert isinstance(value, wanted) and not is_flag, f"{place}: {value!r} is no {wanted}"


def check_tokens(config):
    """The folders hold what nanotron's Nanoset reads: tokens, an index, metadata with the name given."""
    dataset = config["data_stages"][0]["data"]["dataset"]
    assert len(dataset["dataset_folder"]) == len(dataset["dataset_weights"])
    for folder in dataset["dataset_folder"]:
        files = sorted(pathlib.Path(folder).glob("*.ds"))
        assert files, folder
        for tokens in files:
            name, size = pathlib.Path(f"{tokens}.metadata").read_text().splitlines()[0].split("|")
            assert (name, int(size)) == (dataset["tokenizer_name"], dataset["token_size_in_bytes"]), name
            assert pathlib.Path(f"{tokens}.index").stat().st_size % 8 == 0
            assert tokens.stat().st_size % dataset["token_size_in_bytes"] == 0
    assert pathlib.Path(config["tokenizer"]["tokenizer_name_or_path"], "tokenizer.json").exists()


def main():
    path = sys.argv[1]
    config = yaml.safe_load(open(path))
    compare(config, FIELDS, "config")
    tokens, parallelism = config["tokens"], config["parallelism"]
    sequences = tokens["micro_batch_size"] * tokens["batch_accumulation_per_replica"] * parallelism["dp"]
    check_tokens(config)
    try:
        from nanotron.config import get_config_from_file
        from nanotron.config.config import NanosetDatasetsArgs  # noqa: F401
    except ImportError:
        print(f"{path}: fields and types as nanotron's, {sequences} sequences an update")
        return
    read = get_config_from_file(path)
    assert read.tokens.train_steps == tokens["train_steps"]
    print(f"{path}: read by nanotron's own classes, {sequences} sequences an update")


main()
