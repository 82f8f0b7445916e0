"""Reads data with a model's tokenizer, special tokens and chat template."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neox_eqx.checkpoint.origin import Origin
from neox_eqx.config import GPTNeoXConfig
from neox_eqx.errors import InputError
from neox_eqx.model.neox import GPTNeoX
from neox_eqx.model.segment import Segment
from neox_eqx.text.generation_config import read_generation_config
from neox_eqx.text.generator import TextGenerator
from neox_eqx.text.template import load_template
from neox_eqx.text.tokenizer import load_tokenizer
from neox_eqx.tokenizer import Tokenizer
from neox_eqx.training.data.dataset import TrainingData
from neox_eqx.training.data.documents import Document, tokenize
from neox_eqx.training.data.examples import Example, read_examples
from neox_eqx.training.data.lengths import TooLong


@dataclasses.dataclass(frozen=True)
class Reader:
    """What turns text into a model's tokens and back."""

    config: GPTNeoXConfig
    tokenizer: Tokenizer
    defaults: Mapping[str, Any]
    """Of generation_config.json."""
    directory: Path
    """Of the tokenizer and the chat template."""
    template_name: str | None

    @classmethod
    def of(cls, source: Origin, config: GPTNeoXConfig, template_name: str | None) -> "Reader":
        """The reader for a checkpoint; without a name the template is its own, if it has one.

        Raises:
            InputError: a file is missing or broken, or there is no template of this name.
        """
        directory = source.tokenizer
        if template_name is not None:
            load_template(directory, template_name)
        tokenizer, defaults = load_tokenizer(directory), read_generation_config(source.directory)
        return cls(config, tokenizer, defaults, directory, template_name)

    def read(
        self,
        path: Path,
        *,
        batch_size: int,
        max_length: int,
        too_long: TooLong | None,
        pack: bool = False,
        seed: int = 0,
    ) -> tuple[list[Example], list[Document], TrainingData]:
        """The examples in a file or dataset, the document of each, and the data that they make.

        The options are those of `TrainingData.of`.

        Raises:
            InputError: a file or an example is wrong; the message has the path, and the number of
                the example.
        """
        examples = read_examples(path)
        template = None
        if examples[0].messages:
            template = load_template(self.directory, self.template_name)
        documents = tokenize(examples, path, self.tokenizer, self.config, self.defaults, template)
        try:
            data = TrainingData.of(
                documents,
                batch_size=batch_size,
                max_length=max_length,
                too_long=too_long,
                pack=pack,
                seed=seed,
            )
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        return examples, documents, data

    def generator(self, model: GPTNeoX, past: tuple[Segment, ...]) -> TextGenerator:
        """Generation with a model of this config, after `past`."""
        return TextGenerator(
            model,
            self.tokenizer,
            self.defaults,
            past=past,
            directory=self.directory,
            template_name=self.template_name,
        )
