"""transformers itself, once its version is known to do."""

from typing import Any

from stepwell.integrations.needing import needed

transformers: Any = needed("transformers", extra="huggingface", least="4.57")
needed("accelerate", extra="huggingface", least="1.3")
