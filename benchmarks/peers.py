"""The peers: Hugging Face's DecisionTransformerModel in the same loops as ours, and d3rlpy's Decision Transformer.

At the sizes of config.yaml, and at PyTorch's defaults. At the end, what no loop can do without: physics and products.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import d3rlpy
import gymnasium
import numpy as np
import torch
import yaml
from d3rlpy.dataset import TrajectoryMiniBatch
from transformers import DecisionTransformerConfig, DecisionTransformerModel

from dt.data import Windows

ROOT = Path(__file__).parents[1]
STATES, ACTIONS, LENGTH = 17, 6, 1000  # of HalfCheetah
CONFIG = yaml.safe_load((ROOT / "config.yaml").read_text())
SETTINGS = CONFIG["training"]
BATCH, CONTEXT, WIDTH = SETTINGS["batch_size"], CONFIG["model"]["context"], CONFIG["model"]["width"]
LAYERS = CONFIG["model"]["layers"]


def hugging_face() -> DecisionTransformerModel:
    model = CONFIG["model"]
    return DecisionTransformerModel(
        DecisionTransformerConfig(
            state_dim=STATES,
            act_dim=ACTIONS,
            hidden_size=WIDTH,
            n_layer=LAYERS,
            n_head=model["heads"],
            activation_function=model["activation"],
            max_ep_len=LENGTH,
            resid_pdrop=model["dropout"],
            embd_pdrop=model["dropout"],
            attn_pdrop=model["dropout"],
        )
    )


def hugging_face_step(sampler: Iterator[Windows]) -> Callable[[], None]:
    model, kept = hugging_face().train(), []
    adamw = torch.optim.AdamW(model.parameters(), lr=SETTINGS["learning_rate"], weight_decay=SETTINGS["weight_decay"])

    def step() -> None:
        batch = {name: torch.from_numpy(array) for name, array in vars(next(sampler)).items()}
        mask, targets = batch.pop("mask"), batch["actions"]
        _, predicted, _ = model(**batch, rewards=None, attention_mask=mask.long(), return_dict=False)
        loss = (predicted[mask] - targets[mask]).square().mean()
        adamw.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), SETTINGS["gradient_clip"])
        adamw.step()
        kept.append((loss.detach(), norm))

    return step


def d3rlpy_step(sampler: Iterator[Windows]) -> Callable[[], None]:
    model = CONFIG["model"]
    algorithm = d3rlpy.algos.DecisionTransformerConfig(
        batch_size=BATCH,
        context_size=CONTEXT,
        max_timestep=LENGTH,
        learning_rate=SETTINGS["learning_rate"],
        encoder_factory=d3rlpy.models.VectorEncoderFactory([WIDTH], exclude_last_activation=True),
        num_heads=model["heads"],
        num_layers=LAYERS,
        attn_dropout=model["dropout"],
        resid_dropout=model["dropout"],
        embed_dropout=model["dropout"],
        activation_type=model["activation"],
        compile_graph=False,
    ).create(device="cpu")
    algorithm.create_impl((STATES,), ACTIONS)

    def step() -> None:
        windows = next(sampler)
        algorithm.update(
            TrajectoryMiniBatch(
                observations=windows.states,
                actions=windows.actions,
                rewards=windows.returns_to_go,
                returns_to_go=windows.returns_to_go,
                terminals=np.zeros_like(windows.returns_to_go),
                timesteps=windows.timesteps.astype(np.float32),
                masks=windows.mask.astype(np.float32),
                length=CONTEXT,
            )
        )

    return step


@torch.inference_mode()
def published_loop(model: DecisionTransformerModel, environment: gymnasium.Env, steps: int) -> None:
    """Tensors that grow by one step; the last K, padded on the left under a mask, go through the whole model."""
    state, _ = environment.reset(seed=0)
    states, actions = torch.zeros(0, STATES), torch.zeros(0, ACTIONS)
    returns = torch.full((1, 1), 12.0)
    for step in range(steps):
        states = torch.cat([states, torch.from_numpy(state).float()[None]])
        actions = torch.cat([actions, torch.zeros(1, ACTIONS)])
        kept = min(CONTEXT, step + 1)

        def window(values: torch.Tensor, kept: int = kept) -> torch.Tensor:
            return torch.cat([torch.zeros(CONTEXT - kept, values.shape[1]), values[-kept:]])[None]

        timesteps = torch.cat([torch.zeros(CONTEXT - kept).long(), torch.arange(step + 1)[-kept:]])[None]
        mask = torch.cat([torch.zeros(CONTEXT - kept), torch.ones(kept)]).long()[None]
        _, predicted, _ = model(
            states=window(states),
            actions=window(actions),
            rewards=None,
            returns_to_go=window(returns),
            timesteps=timesteps,
            attention_mask=mask,
            return_dict=False,
        )
        actions[-1] = predicted[0, -1]
        state, reward, *_ = environment.step(actions[-1].numpy())
        returns = torch.cat([returns, returns[-1:] - reward / 1000])


def simulate(environment: gymnasium.Env, steps: int) -> None:
    """Physics alone, with random actions."""
    environment.reset(seed=0)
    actions = np.random.default_rng(0).uniform(-1, 1, (steps, ACTIONS)).astype(np.float32)
    for action in actions:
        environment.step(action)


def products(dtype: torch.dtype) -> Callable[[], None]:
    """The matrix products of a step of ours, forward and backward, on operands that are there already."""
    steps, tokens = BATCH * CONTEXT, BATCH * (3 * CONTEXT - 1)
    shapes = []  # rows, inputs, outputs of each linear map
    for layer in range(LAYERS):
        rows = tokens if layer < LAYERS - 1 else steps
        shapes += [(rows, WIDTH, WIDTH), (tokens, WIDTH, 2 * WIDTH), (rows, WIDTH, WIDTH)]
        shapes += [(rows, WIDTH, 4 * WIDTH), (rows, 4 * WIDTH, WIDTH)]
    operands = [
        (
            torch.randn(rows, inputs).to(dtype),
            torch.randn(outputs, inputs).to(dtype),
            torch.randn(rows, outputs).to(dtype),
        )
        for rows, inputs, outputs in shapes
    ]
    windows = [(BATCH, 3 * CONTEXT - 1 if layer < LAYERS - 1 else CONTEXT, 3 * CONTEXT - 1) for layer in range(LAYERS)]
    attention = [
        (
            torch.randn(n, rows, WIDTH).to(dtype),
            torch.randn(n, length, WIDTH).to(dtype),
            torch.randn(n, rows, length).to(dtype),
        )
        for n, rows, length in windows
    ]

    def run() -> None:
        for inputs, weight, gradient in operands:
            inputs @ weight.t(), gradient @ weight, gradient.t() @ inputs
        for query, key, scores in attention:
            for _ in range(2):  # scores and their use; then the gradients of both
                torch.bmm(query, key.transpose(1, 2)), torch.bmm(scores, key), torch.bmm(scores.transpose(1, 2), query)

    return run
