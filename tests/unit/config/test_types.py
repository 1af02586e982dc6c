import pytest
from pydantic import SecretStr, TypeAdapter, ValidationError

from bot.config.types import Database

DATABASE: TypeAdapter[SecretStr | None] = TypeAdapter(Database)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://assistant:s%2Fcret@db.example/assistant",
        "postgres://u@/postgres?host=/run/postgresql",
        "postgresql://u@[::1]:5432/d?sslmode=verify-full",
        "postgresql://u@first:1,second/d",
    ],
)
def test_a_url_that_libpq_reads_is_taken(url: str) -> None:
    taken = DATABASE.validate_python(url)

    assert taken is not None
    assert taken.get_secret_value() == url


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("mysql://u@h/d", "begins with postgresql://"),
        ("postgresql:u@h/d", "begins with postgresql://"),
        ("postgresql://u:hidden/b@h/d", "percent-encoded"),
        ("postgresql://u:hidden#b@h/d", "percent-encoded"),
        ("postgresql://u:hidden@b@h/d", "percent-encoded"),
        ("postgresql://u:hidden?b@h/d", "percent-encoded"),
        ("postgresql://u:hidden@h:54x/d", "its port must be a number"),
        ("postgresql://u:hidden@h:99999/d", "its port must be a number"),
    ],
)
def test_a_url_of_a_database_that_cannot_be_is_refused_without_its_words(
    url: str, reason: str
) -> None:
    with pytest.raises(ValidationError) as raised:
        DATABASE.validate_python(url)

    [error] = raised.value.errors(include_input=False)
    assert reason in error["msg"]
    assert "hidden" not in error["msg"]
