"""Plan a graph of merges over models of 405 billion parameters, from headers alone.

    python -m benchmarks.planning FOLDER [--nodes 10] [--layers 126]

The models are Llama 3.1 405B in shape: 126 layers, 191 shards, headers as the hub has them and
holes for weights, which take no disk. The graph is a mergekit file of so many documents, each a
TIES of the one before it and another model, the last a stack of layers. Prints seconds and memory
of `remerge plan --tensors`, and of `python -c pass` beside it.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks.measure import run
from remerge.tensors.layout import OutputTensor, header_bytes, index_of, plan_shards

SHARD_BYTES = 4_300_000_000
HIDDEN, FEED_FORWARD, KEYS, VOCABULARY = 16384, 53248, 1024, 128256


def tensors(layers: int) -> list[OutputTensor]:
    """The weights of Llama 3.1 405B with so many layers, in state-dict order."""
    shapes: list[tuple[str, tuple[int, ...]]] = [("model.embed_tokens", (VOCABULARY, HIDDEN))]
    for layer in range(layers):
        at = f"model.layers.{layer}"
        shapes += [
            (f"{at}.self_attn.q_proj", (HIDDEN, HIDDEN)),
            (f"{at}.self_attn.k_proj", (KEYS, HIDDEN)),
            (f"{at}.self_attn.v_proj", (KEYS, HIDDEN)),
            (f"{at}.self_attn.o_proj", (HIDDEN, HIDDEN)),
            (f"{at}.mlp.gate_proj", (FEED_FORWARD, HIDDEN)),
            (f"{at}.mlp.up_proj", (FEED_FORWARD, HIDDEN)),
            (f"{at}.mlp.down_proj", (HIDDEN, FEED_FORWARD)),
            (f"{at}.input_layernorm", (HIDDEN,)),
            (f"{at}.post_attention_layernorm", (HIDDEN,)),
        ]
    shapes += [("model.norm", (HIDDEN,)), ("lm_head", (VOCABULARY, HIDDEN))]
    return [OutputTensor(f"{name}.weight", "BF16", shape) for name, shape in shapes]


def make_model(folder: Path, layers: int) -> None:
    """A folder with headers and holes; one that is there is kept."""
    if (folder / "config.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    shards = plan_shards(tensors(layers), SHARD_BYTES)
    for shard in shards:
        head = header_bytes(shard.tensors)
        with (folder / shard.file).open("wb") as file:
            file.write(head)
            file.truncate(len(head) + sum(tensor.nbytes for tensor in shard.tensors))
    (folder / "model.safetensors.index.json").write_text(json.dumps(index_of(shards)))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "dtype": "bfloat16",
        "hidden_size": HIDDEN,
        "intermediate_size": FEED_FORWARD,
        "model_type": "llama",
        "num_attention_heads": 128,
        "num_hidden_layers": layers,
        "num_key_value_heads": 8,
        "tie_word_embeddings": False,
        "vocab_size": VOCABULARY,
    }
    (folder / "config.json").write_text(json.dumps(config))


def graph(nodes: int, layers: int) -> str:
    """A mergekit file of `nodes` documents, each of which uses the one before."""
    documents = []
    for node in range(nodes - 1):
        first = f"m{node}" if node == 0 else f"node{node - 1}"
        documents.append(
            f"name: node{node}\nmerge_method: ties\nbase_model: base\nmodels:\n"
            f"- {{model: {first}, parameters: {{weight: [0.2, 0.8], density: 0.4}}}}\n"
            f"- {{model: m{node + 1}, parameters: {{weight: 1, density: 0.6}}}}\n"
        )
    half = layers // 2
    documents.append(
        "merge_method: passthrough\nslices:\n"
        f"- sources: [{{model: node{nodes - 2}, layer_range: [0, {half}]}}]\n"
        f"- sources: [{{model: base, layer_range: [{half}, {layers}]}}]\n"
    )
    return "---\n".join(documents)


def main() -> None:
    """Make the models, plan, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where models are made; sparse files")
    parser.add_argument("--nodes", type=int, default=10)
    parser.add_argument("--layers", type=int, default=126)
    options = parser.parse_args()
    models = ["base", *(f"m{number}" for number in range(options.nodes))]
    for name in models:
        make_model(options.folder / name, options.layers)
    config = options.folder / "merge.yml"
    config.write_text(graph(options.nodes, options.layers))
    weights = sum(tensor.size for tensor in tensors(options.layers))
    print(f"{options.nodes} nodes over {len(models)} models of {weights / 1e9:.0f} B parameters")
    command = [sys.executable, "-m", "remerge.cli", "plan", str(config), "--tensors", "--models",
               str(options.folder)]  # fmt: skip
    for name, each in {"remerge plan": command, "python": [sys.executable, "-c", "pass"]}.items():
        costs = sorted((run(each) for _ in range(3)), key=lambda cost: cost.wall)
        memory = costs[1].anonymous / 1e6
        print(f"{name:14} {costs[1].wall:5.2f} s, {costs[1].processor:5.2f} s of processor, "
              f"{memory:4.0f} MB")  # fmt: skip


if __name__ == "__main__":
    main()
