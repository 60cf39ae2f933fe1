"""What the commands say of a prompt before the model runs."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from linnet.cli.terminal import note
from linnet.errors import InvalidInput

if TYPE_CHECKING:
    from linnet.pipeline import Pipeline


def check_prompts(
    pipeline: "Pipeline", prompts: Mapping[str, str], *, anyway: bool, quiet: bool, prefix: str = ""
) -> None:
    """Refuse prompts that the model cannot draw, each named as the person gave it, unless `anyway`; say what they leave
    open and what the model does not see."""
    from linnet.data.known import check_words

    for field, prompt in prompts.items():
        left_open: list[str] = []
        if pipeline.spec.closed_vocabulary and not anyway:
            try:
                left_open = check_words(pipeline.spec, pipeline.model.tokenizer, prompt, field=field)
            except InvalidInput as error:
                remedy = f"{error.remedy}, or add --anyway"
                raise InvalidInput(field, prompt, error.problem, remedy) from None
        for line in () if quiet else left_open:
            note(f"note: {prefix}{line}")
        if not quiet and field != "negative":
            warn_of_cut(pipeline, prompt, field, prefix=prefix)


def warn_of_cut(pipeline: "Pipeline", prompt: str, name: str = "prompt", *, prefix: str = "") -> None:
    """Say what of a prompt the model does not see."""
    if cut := pipeline.model.encode(prompt).cut:
        limit = pipeline.spec.max_prompt_tokens
        note(f"warning: {prefix}the {name} has over {limit} tokens; the model does not see: {cut}")
