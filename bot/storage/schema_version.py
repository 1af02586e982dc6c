"""Which version's tables a ledger has, by the migration that Alembic has stamped it with."""

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from bot.errors import StoreError


def upgrade(connection: Connection) -> None:
    """Bring the tables up to date.

    Raises:
        alembic.util.CommandError: they are of a version that this one does not know.
    """
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def check(connection: Connection) -> None:
    """See that the tables are those of this version.

    Raises:
        StoreError: they are older or newer, or there are none.
    """
    stamped = MigrationContext.configure(connection).get_current_heads()
    scripts = ScriptDirectory.from_config(_config())
    if not stamped:
        raise StoreError("there is no ledger in this database: the assistant has not run yet")
    if not {one.revision for one in scripts.walk_revisions()}.issuperset(stamped):
        raise StoreError("the ledger was written by a newer version: run that version")
    if list(stamped) != scripts.get_heads():
        raise StoreError("the ledger was written by an older version: start the assistant once")


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", "bot.storage:migrations")
    config.set_main_option("path_separator", "os")
    return config
