"""Makes Parlant's JSON files survive a kill at any moment.

Parlant truncates a file and then writes it anew, for every event. A server that is killed in
between starts again with an empty store, which is not what a test of "killed and restarted" is
about. Here the new content takes the old one's place in one step.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from parlant.adapters.db.json_file import JSONFileDocumentDatabase


def install() -> None:
    async def save(database: Any, data: Mapping[str, Any]) -> None:
        path = database.file_path
        new = path.with_name(path.name + ".new")
        text = json.dumps({**database._raw_data, **data}, ensure_ascii=False, indent=2)
        new.write_text(text, encoding="utf-8")
        os.replace(new, path)

    JSONFileDocumentDatabase._save_data = save
