"""`python -m api` serves the API and the console."""

import gc
import sys

import uvicorn

from api.app import create_app
from api.logs import CONFIGURATION
from api.server import OPTIONS, raise_descriptor_limit
from database.address import database_url
from database.migrate import migrate_if_needed
from database.settings import read_settings
from declared.file import declare_file
from notifications.watcher import watching


def main() -> None:
    """Bring the database up to date, and serve until told to stop."""
    settings = read_settings()
    url = database_url()
    try:
        watcher = watching(url, settings)
    except ValueError as error:
        sys.exit(str(error))
    with watcher:
        migrate_if_needed(url)
        declare_file(url)
        app = create_app(settings, url)
        raise_descriptor_limit()
        # Imported objects stay, and collecting garbage among them would delay requests.
        gc.collect()
        gc.freeze()
        uvicorn.run(
            app,
            host=settings.api_host,
            port=settings.api_port,
            log_config=CONFIGURATION,
            # The proxies whose headers about the client's address and https are trusted.
            forwarded_allow_ips=settings.forwarded_allow_ips,
            **OPTIONS,
        )


if __name__ == "__main__":
    main()
