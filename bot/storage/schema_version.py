"""The version of a ledger's tables: migrations, and a check without them (by Alembic)."""

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from bot.errors import StoreError


def upgrade(connection: Connection) -> None:
    """Migrate the tables to this version.

    Raises:
        alembic.util.CommandError: this version does not know the version of the tables.
    """
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def check(connection: Connection) -> None:
    """Check that the tables are of this version.

    Raises:
        StoreError: the tables are older or newer, or there are none.
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
