"""Every pair of the zoo, in the order of its tables.

`FOREIGN` are those of this directory, `PAIRS` all, `PLAIN` those that can be perturbed.
"""

from __future__ import annotations

import zoo_attention
import zoo_audio
import zoo_convnets
import zoo_decoders
import zoo_families
import zoo_fresh_attention
import zoo_fresh_convnets
import zoo_fresh_deep
import zoo_fresh_fields
import zoo_fresh_generative
import zoo_fresh_language
import zoo_fresh_sequences
import zoo_fresh_tables
import zoo_language
import zoo_long
import zoo_mixed
import zoo_mixer
import zoo_more_agents
import zoo_more_attention
import zoo_more_convnets
import zoo_more_images
import zoo_more_sequences
import zoo_more_towers
import zoo_new_attention
import zoo_new_convnets
import zoo_new_generative
import zoo_new_language
import zoo_new_records
import zoo_new_towers
import zoo_recurrent
import zoo_resnets
import zoo_small
import zoo_transformers
import zoo_vision
from zoo_pairs import Pair

#: In the style of public code, with names that have nothing in common.
FOREIGN: tuple[Pair, ...] = (
    *zoo_resnets.PAIRS,
    *zoo_convnets.PAIRS,
    *zoo_transformers.PAIRS,
    *zoo_mixer.PAIRS,
    *zoo_language.PAIRS,
    *zoo_recurrent.PAIRS,
    *zoo_small.PAIRS,
    *zoo_vision.PAIRS,
    *zoo_attention.PAIRS,
    *zoo_decoders.PAIRS,
    *zoo_audio.PAIRS,
    *zoo_long.PAIRS,
    *zoo_mixed.PAIRS,
    *zoo_fresh_attention.PAIRS,
    *zoo_fresh_convnets.PAIRS,
    *zoo_fresh_deep.PAIRS,
    *zoo_fresh_fields.PAIRS,
    *zoo_fresh_generative.PAIRS,
    *zoo_fresh_language.PAIRS,
    *zoo_fresh_sequences.PAIRS,
    *zoo_fresh_tables.PAIRS,
    *zoo_more_agents.PAIRS,
    *zoo_more_attention.PAIRS,
    *zoo_more_convnets.PAIRS,
    *zoo_more_images.PAIRS,
    *zoo_more_sequences.PAIRS,
    *zoo_more_towers.PAIRS,
    *zoo_new_attention.PAIRS,
    *zoo_new_convnets.PAIRS,
    *zoo_new_generative.PAIRS,
    *zoo_new_language.PAIRS,
    *zoo_new_records.PAIRS,
    *zoo_new_towers.PAIRS,
)
PAIRS: tuple[Pair, ...] = (*FOREIGN, *zoo_families.PAIRS)
#: Rules speak of names, and what is left out by leave could be left out wrongly.
PLAIN: tuple[Pair, ...] = tuple(
    pair for pair in PAIRS if not pair.rules and not {"missing", "unexpected"} & set(pair.allow.get("always", ()))
)
