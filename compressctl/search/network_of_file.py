"""The network that can be made of an ONNX file, where there is something to train it with: pruning and training then serve the file as well."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from compressctl.core.cache import Cache
from compressctl.core.errors import CompressctlError, in_short
from compressctl.core.events import Listener
from compressctl.core.model import TorchModel
from compressctl.search.facts import Facts
from compressctl.search.known_samples import known_samples
from compressctl.search.opened import opened
from compressctl.search.subject import Subject


def with_network(facts: Facts, subject: Subject, cache: Cache | None, listeners: Sequence[Listener]) -> Facts:
    """Whether one can be made that computes the same on real samples and becomes a file again, or why not. Facts of other models, and of those that
    nothing could train, as they are."""
    if not subject.is_file or not facts.has_lessons or facts.quantized:
        return facts
    from compressctl.layers.channels.dependency_groups import example_inputs
    from compressctl.techniques.unfold.unfold import bare_convolutions

    try:
        with opened(subject.as_network().recipe(), cache, listeners) as executor:
            network = executor.workspace.loaded()
            assert isinstance(network, TorchModel)
            executor.workspace.original_graph()  # proves that it computes the same
            executor.workspace.lower(network)  # what nothing can export is not worth training
            bare = bare_convolutions(network.body, example_inputs(network.signature))
            return replace(facts, becomes_network=True, lacks_norms=bool(bare), known=known_samples(executor))
    except CompressctlError as error:
        return replace(facts, no_network=error.message)
    except (RuntimeError, ValueError) as error:  # what torch says of sizes that do not fit each other
        return replace(facts, no_network=in_short(error))
