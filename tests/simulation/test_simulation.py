"""The promises of the bot, over whatever people, homeserver, model and machine may do to it.

A longer run takes other steps each time:
`SIMULATION_EXAMPLES=20000 pytest tests/simulation/test_simulation.py`.
"""

import copy
import logging
import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import pytest
import structlog
from hypothesis import HealthCheck, Phase, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    precondition,
    rule,
    run_state_machine_as_test,
)
from typing_extensions import override

import bot.core.draft
from bot.core.chat import FinishDelta
from bot.core.events import EventId, KeyNews, Reaction, Redaction, RoomId, Undecryptable
from bot.core.message_split import Cuts, split
from bot.core.outgoing import Notice, Outgoing, OutgoingEdit, Reply
from bot.errors import (
    CompletionError,
    HomeserverUnreachable,
    ModelBusy,
    ModelLimited,
    ModelStalled,
    RateLimited,
    Truncated,
)
from bot.i18n.texts import speak
from tests.make import AGENT, COLLEAGUE, ROOM
from tests.simulation.simulation import (
    DAY,
    READS,
    SALON,
    STORE,
    WRITES,
    Doom,
    PersonMessage,
    RoomClosure,
    SendFault,
    Sent,
    SimulatedRequest,
    Stuck,
    World,
    to_of,
)

OFTEN = 300  # examples in CI: more than ten thousand steps
EXAMPLES = int(os.environ.get("SIMULATION_EXAMPLES", OFTEN))
STEPS = 50
OTHER = RoomId("!other:tchap.test")
ROOMS = (ROOM, OTHER, SALON)
DOOMS = (*sorted(STORE | WRITES | READS), "put", "put", "sent", "keep_outbox", "finish", "redact")
STEPS_KNOWN = 37  # that `did` is told of
PART = 120  # characters of one message, so that a few sentences make several
TEXTS = speak("fr")
CUTS = {
    "length": "cut by length",
    "content_filter": "cut by filter",
    **{kind.__name__: kind.key for kind in (Truncated, ModelStalled, ModelBusy, ModelLimited)},
}

# Where a promise does not hold: each name lets one corner pass, and is looked for in one place.
# Without the name, the promise is asked for there as well.
EXCEPTED = frozenset(
    {
        # All are of ledgers that come from a backup. A reply that was begun counts as given.
        "stub of a backup",
        # Messages with a reply each are heard again as one prompt.
        "joined of a backup",
        # Nobody knows of the reply to what was redacted meanwhile.
        "redacted since a backup",
        # The reply to the older words may count as whole.
        "edited since a backup",
    }
)

which = st.integers(0, 7)
down = st.sampled_from([False, False, False, True])
ends = st.sampled_from(["not yet", "whole", "whole", "cut"])
doomed = st.none() | st.tuples(
    st.sampled_from(["put", "keep_outbox", "shown", "sent", "finish"]),
    st.integers(1, 2),
    st.booleans(),
)
ran: Counter[str] = Counter()
happened: Counter[str] = Counter()
complaints: list[str] = []


class Promises(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        complaints.clear()
        self.world = World()
        self.world.start()

    @property
    def open_rooms(self) -> list[RoomId]:
        return [room_id for room_id in ROOMS if room_id not in self.world.closed]

    @property
    def prompts(self) -> list[PersonMessage]:
        """What can still be changed, the newest first."""
        return [
            one
            for one in reversed(self.world.asked)
            if one.kind == "prompt"
            and not one.redacted
            and one.message.room_id in self.open_rooms
            and one.event_id not in self.world.homeserver.sealed
        ]

    @property
    def replies(self) -> list[tuple[EventId, Sent]]:
        standing = [
            (key, one)
            for key, one in reversed(self.world.standing())
            if not isinstance(one.outgoing, Notice)
        ]
        return [(key, one) for key, one in standing if one.room_id in self.open_rooms]

    def did(self, name: str) -> None:
        ran[name] += 1
        self.world.settle()
        if self.world.process is None and not self.world.stays_down:
            self.world.start()
        self.check_sends()

    # What people do.

    @precondition(lambda self: self.open_rooms)
    @rule(where=which, colleague=st.booleans(), count=st.integers(1, 3), says=st.integers(0, 5))
    def ask(self, where: int, count: int, says: int, *, colleague: bool) -> None:
        room_id = chosen(self.open_rooms, where)
        sender = COLLEAGUE if colleague and room_id == SALON else AGENT
        for _ in range(count):
            self.world.say(room_id, sender)
        self.did("ask")
        for talk in self.world.talker.open if says else ():
            self.world.talker.say(talk, says)
        self.world.settle()

    @precondition(lambda self: self.roots)
    @rule(where=which, own=st.booleans())
    def ask_in_thread(self, where: int, *, own: bool) -> None:
        root = chosen(self.roots, where)
        self.world.say(SALON, root.message.sender, root=root)
        if own:
            self.world.say(SALON, root.message.sender, root=root)
        self.did("ask in thread")

    @property
    def roots(self) -> list[PersonMessage]:
        return [
            one
            for one in self.prompts
            if one.message.room_id == SALON and one.message.thread_root is None
        ]

    @precondition(lambda self: self.open_rooms)
    @rule(where=which, kind=st.sampled_from(["!apropos", "image", "!stop", "!refaire"]))
    def say_something_else(self, where: int, kind: str) -> None:
        asked = self.world.say(chosen(self.open_rooms, where), AGENT, kind)
        if kind in {"!stop", "!refaire"}:
            self.world.changes.append((kind, asked))
        self.did(kind)

    @precondition(lambda self: self.prompts)
    @rule(index=which)
    def edit(self, index: int) -> None:
        self.world.edit(chosen(self.prompts, index))
        self.did("edit")

    @precondition(lambda self: self.prompts)
    @rule(index=which)
    def redact(self, index: int) -> None:
        self.world.redact(chosen(self.prompts, index))
        self.did("redact")

    @precondition(lambda self: self.replies)
    @rule(index=which)
    def moderate(self, index: int) -> None:
        event_id, sent = chosen(self.replies, index)
        homeserver = self.world.homeserver
        self.world.moderated.add(event_id)
        homeserver.happen(Redaction(homeserver.new_id(), sent.room_id, COLLEAGUE, event_id))
        self.did("moderate")

    @precondition(lambda self: self.prompts)
    @rule(index=which, key=st.sampled_from(["🛑", "🔄"]), on_reply=st.booleans())
    def react(self, index: int, key: str, *, on_reply: bool) -> None:
        asked = chosen(self.prompts, index)
        event_id, homeserver = asked.event_id, self.world.homeserver
        for reply, sent in self.replies if on_reply else ():
            to = to_of(sent.outgoing)
            if to is not None and asked.event_id in to.event_ids:
                event_id = reply
        message = asked.message
        self.world.changes.append((key, asked))
        homeserver.happen(
            Reaction(
                event_id=homeserver.new_id(),
                room_id=message.room_id,
                sender=message.sender,
                target=event_id,
                key=key,
            )
        )
        self.did(key)

    @precondition(lambda self: self.open_rooms)
    @rule(where=which, session=st.sampled_from("ab"))
    def say_without_key(self, where: int, session: str) -> None:
        room_id = chosen(self.open_rooms, where)
        asked = self.world.say(room_id, AGENT)
        self.world.homeserver.sealed[asked.event_id] = room_id + session
        self.did("say without key")

    @precondition(lambda self: self.missing)
    @rule(index=which, withheld=st.sampled_from([None, None, "m.unverified"]))
    def bring_key(self, index: int, withheld: str | None) -> None:
        room_id, session = chosen(self.missing, index)
        self.world.homeserver.happen(KeyNews(AGENT, room_id, session, withheld))
        self.did("withhold key" if withheld else "bring key")

    @property
    def missing(self) -> list[tuple[RoomId, str]]:
        homeserver = self.world.homeserver
        sessions = [
            (one.message.room_id, homeserver.sealed.get(one.event_id, ""))
            for one in self.world.asked
        ]
        return [one for one in sessions if one[1] not in {"", *homeserver.opened}]

    @precondition(lambda self: len(self.open_rooms) > 1)
    @rule(where=which, refused=st.booleans(), says=st.integers(0, 6))
    def close_a_room(self, where: int, says: int, *, refused: bool) -> None:
        """Close a room, mostly with something being answered in it."""
        room_id, talker = chosen(self.open_rooms, where), self.world.talker
        if says:
            self.world.say(room_id, AGENT)
            self.did("ask")
        self.world.homeserver.happen(RoomClosure(room_id, refused))
        self.did("kick" if refused else "upgrade")
        for talk in talker.open if says else ():
            talker.say(talk, says)
        self.world.settle()

    # What the model does.

    @precondition(lambda self: self.world.talker.open)
    @rule(index=which, sentences=st.integers(1, 9), paragraph=st.sampled_from([" ", "\n\n"]))
    def the_model_speaks(self, index: int, sentences: int, paragraph: str) -> None:
        talker = self.world.talker
        talker.say(chosen(talker.open, index), sentences, paragraph)
        self.did("model speaks")

    @precondition(lambda self: self.world.talker.open)
    @rule(index=which, reason=st.sampled_from(["stop", "stop", "length", "content_filter"]))
    def the_model_ends(self, index: int, reason: str) -> None:
        talker = self.world.talker
        talk = chosen(talker.open, index)
        if not talk.text:
            talker.say(talk, 2)
        talk.feed.put_nowait(FinishDelta(reason))
        self.did("model ends")

    @precondition(lambda self: self.world.talker.open)
    @rule(index=which, kind=st.sampled_from([Truncated, ModelStalled, ModelBusy, ModelLimited]))
    def the_model_fails(self, index: int, kind: type[CompletionError]) -> None:
        chosen(self.world.talker.open, index).feed.put_nowait(kind("it failed"))
        self.did("model fails")

    @precondition(lambda self: self.world.talker.open)
    @rule(says=st.lists(st.integers(1, 6), max_size=4), every=which, ends=ends, doomed=doomed)
    def the_model_writes(
        self, says: list[int], every: int, ends: str, doomed: tuple[str, int, bool] | None
    ) -> None:
        """Let whole answers come about, at some pace."""
        talker = self.world.talker
        for sentences in says:
            for talk in talker.open:
                talker.say(talk, sentences)
            self.world.pass_time(every / 2)
        if doomed and self.world.process and ends != "not yet":
            self.world.process.doom = Doom(*doomed)
        for talk in talker.open if ends != "not yet" else ():
            if ends == "cut":
                talk.feed.put_nowait(Truncated("it was cut"))
            else:
                talker.finish(talk)
        self.did("model writes")

    # What the homeserver and the machine do.

    @rule(
        times=st.integers(1, 4),
        how=st.sampled_from(["429", "502", "429, but stored", "502, but stored"]),
    )
    def refuse_sends(self, times: int, how: str) -> None:
        error = RateLimited(how, 3.0) if "429" in how else HomeserverUnreachable(how)
        self.world.homeserver.faults += [SendFault(error, stored="stored" in how)] * times
        self.did(f"refuse sends: {how}")

    @rule(
        trouble=st.sampled_from(["read", "slow", "fast", "clock", "again", "forget"]),
        much=st.integers(1, 8),
    )
    def be_in_trouble(self, trouble: str, much: int) -> None:
        homeserver = self.world.homeserver
        match trouble:
            case "read":
                homeserver.unreadable_for = much  # as many as are waited for with patience
            case "slow" | "fast":
                self.world.slowness = 0.4 * much if trouble == "slow" else 0.0
            case "clock":
                homeserver.step_back(500 * much)
            case "again":
                homeserver.again = much
            case _:
                self.forget_transactions()
        self.did(f"trouble: {trouble}")

    def forget_transactions(self) -> None:
        """Forget them, as after a day: there is nothing that is tried for that long."""
        if self.world.process is None or not self.world.outstanding:
            self.world.homeserver.transactions.clear()
            self.world.forgotten += 1

    @rule(seconds=st.sampled_from([0.4, 1.0, 2.0, 5.0, 11.0, 35.0, 700.0, 2 * DAY / 3]))
    def wait(self, seconds: float) -> None:
        self.world.pass_time(seconds)
        self.did("wait")

    @precondition(lambda self: self.world.outstanding)
    @rule(down=down)
    def kill(self, *, down: bool) -> None:
        self.world.stays_down = down
        self.world.happened["killed between"] += 1
        self.world.kill()
        self.did("kill")

    @precondition(lambda self: self.world.process)
    @rule(name=st.sampled_from(DOOMS), at=st.integers(1, 3), after=st.booleans(), down=down)
    def doom(self, name: str, at: int, *, after: bool, down: bool) -> None:
        assert self.world.process is not None
        self.world.stays_down = down
        self.world.process.doom = Doom(name, at, after)
        self.did("doom")

    @precondition(lambda self: self.world.process is None)
    @rule()
    def start(self) -> None:
        self.world.start()
        self.did("start")

    @precondition(lambda self: self.world.outstanding)
    @rule(down=down)
    def ask_to_stop(self, *, down: bool) -> None:
        assert self.world.process is not None
        self.world.stays_down = down
        self.world.process.stopping.set()
        self.did("ask to stop")

    @precondition(lambda self: self.world.backup is None)
    @rule()
    def back_up(self) -> None:
        self.world.backup = copy.deepcopy(self.world.ledger)
        self.did("back up")

    @precondition(lambda self: self.world.backup is not None and not self.world.restores)
    @rule(forgetful=st.booleans())
    def restore(self, *, forgetful: bool) -> None:
        self.world.restore()
        if forgetful:
            self.forget_transactions()
        self.did("restore")

    # What is promised.

    def check_sends(self) -> None:
        homeserver = self.world.homeserver
        assert not homeserver.trespasses  # R8
        for _, outgoing in homeserver.collisions:  # R3
            final = isinstance(outgoing, OutgoingEdit) and outgoing.reply.final
            assert not final or self.world.restores

    @override
    def teardown(self) -> None:
        world = self.world
        try:
            self.come_to_rest()
            self.check()
        except BaseException:
            note(world.describe())
            raise
        finally:
            happened.update(world.happened)
            world.close()

    def come_to_rest(self) -> None:
        """Let everybody be well until nothing is left to do, and see that it stays so."""
        world = self.world
        world.slowness, world.talker.fluent = 0.0, True
        world.homeserver.faults.clear()
        world.homeserver.unreadable_for = 0
        if world.process is not None:
            world.process.doom = None
        for talk in world.talker.open:
            world.talker.finish(talk)
        self.run_dry(30.0, 200)
        world.pass_time(200.0)
        for asked in world.asked:
            MessageOutcome(world, asked).check_told()
        self.run_dry(DAY / 4, 6)
        shown = self.open_standing
        world.kill()
        world.start()
        world.pass_time(60.0)
        assert self.open_standing == shown
        assert complaints == []

    @property
    def open_standing(self) -> list[tuple[EventId, Sent]]:
        rooms = self.open_rooms
        return [(key, one) for key, one in self.world.standing() if one.room_id in rooms]

    def run_dry(self, seconds: float, most: int) -> None:
        """Let time pass until nothing is left to do but, in the first hours, to wait for keys."""
        world, waits_for_keys = self.world, seconds < DAY / 8
        for _ in range(most):
            self.see_it_stop()
            if world.process is None:
                world.start()
            if not self.undone(waits_for_keys=waits_for_keys):
                return
            world.pass_time(seconds)
        if undone := self.undone(waits_for_keys=waits_for_keys):
            raise Stuck(f"not done: {undone}")

    def see_it_stop(self) -> None:  # R10
        if self.world.process is not None and self.world.process.stopping.is_set():
            self.world.pass_time(600.0)  # for all that is being written
            assert not self.world.process

    def undone(self, *, waits_for_keys: bool) -> set[EventId]:
        """Return what the bot has still to do."""
        world = self.world
        spared = {*world.homeserver.sealed} if waits_for_keys else set[EventId]()
        return world.unfinished - spared | ({EventId("the stream")} if world.untold else set())

    def check(self) -> None:
        for asked in self.world.asked:
            MessageOutcome(self.world, asked).check()
        self.check_words()
        self.check_key_notices()

    def check_words(self) -> None:
        groups: dict[EventId, list[Reply]] = {}
        for _, sent in self.world.standing():
            reply = reply_of(sent.outgoing)
            if reply is not None:
                groups.setdefault(reply.prompt.event_id, []).append(reply)
        for replies in groups.values():
            Words(self.world, replies).check()

    def check_key_notices(self) -> None:  # R9
        told = Counter(
            (sent.outgoing.to.sender, sent.room_id, int(sent.at / 1000 // DAY))
            for _, sent in self.world.standing()
            if isinstance(sent.outgoing, Notice) and isinstance(sent.outgoing.to, Undecryptable)
        )
        if not (self.world.restores or self.world.forgotten):
            assert max(told.values(), default=0) <= 1 + self.world.homeserver.lost


class MessageOutcome:
    """What one message has led to."""

    def __init__(self, world: World, asked: PersonMessage) -> None:
        self.world = world
        self.asked = asked
        mine = [
            (sent.outgoing, to)
            for _, sent in world.standing()
            if (to := to_of(sent.outgoing)) and asked.event_id in to.event_ids
        ]
        self.notices = [one for one, _ in mine if isinstance(one, Notice)]
        self.notices += [
            sent.outgoing
            for _, sent in world.standing()
            if isinstance(sent.outgoing, Notice)
            and isinstance(sent.outgoing.to, Undecryptable)
            and sent.outgoing.to.event_id == asked.event_id
            and sent.outgoing.text == TEXTS("expired", hours=24)
        ]
        self.replies = {to.event_id for one, to in mine if not isinstance(one, Notice)}

    def check(self) -> None:
        asked = self.asked
        if is_spared(self.world, asked):
            return
        assert len(self.replies) <= 1  # R2
        assert self.calls <= self.most_calls  # R2
        if asked.message.room_id in self.world.closed:
            return
        if asked.redacted:
            assert not self.replies or self.is_unknown  # R7
        elif self.is_excused:
            return
        elif self.is_readable:
            self.check_answered()
        elif asked.message.room_id != SALON:
            told = self.is_told or self.replies or self.notices
            assert told or self.world.restores  # R9: a backup may bring back who was told before

    def check_told(self) -> None:  # R9
        """See that who waits for a key knows within minutes."""
        homeserver, message = self.world.homeserver, self.asked.message
        if message.event_id not in self.world.unfinished or self.asked.redacted:
            return
        if homeserver.room(message.room_id).direct and message.room_id not in self.world.closed:
            assert self.is_told or self.world.restores

    @property
    def is_readable(self) -> bool:
        """Tell whether its key has come while it was waited for."""
        homeserver, message = self.world.homeserver, self.asked.message
        session = homeserver.sealed.get(message.event_id)
        came_at = homeserver.opened.get(session, math.inf) if session else 0.0
        return came_at < message.timestamp / 1000 + DAY - 100.0

    @property
    def is_unknown(self) -> bool:
        """Tell whether the ledger, which comes from a backup, does not know the reply."""
        if not self.world.restores or "redacted since a backup" not in EXCEPTED:
            return False
        known = {key for of_one in self.world.ledger.replies.values() for key in of_one.values()}
        mine = [
            key
            for key, sent in self.world.standing()
            if not isinstance(sent.outgoing, Notice)
            and (to := to_of(sent.outgoing))
            and self.asked.event_id in to.event_ids
        ]
        return known.isdisjoint(mine)

    def check_answered(self) -> None:  # R1
        asked, outcomes = self.asked, len(self.replies) + len(self.notices)
        if asked.kind in {"!stop", "!refaire"}:
            assert outcomes <= self.most_outcomes, asked.event_id
        elif asked.message.room_id != SALON or asked.kind == "prompt":
            assert 1 <= outcomes <= self.most_outcomes, asked.event_id

    @property
    def most_outcomes(self) -> int:
        """Return how many there may be: one, but for a notice that says that a new try failed.

        What the homeserver has forgotten having got from an earlier process is not in place of
        anything: an error's notice stays beside the answer that a later process gives.
        """
        world = self.world
        forgotten = world.forgotten and world.ends > self.asked.earlier
        return 1 + len(self.changes) + bool(forgotten)

    @property
    def changes(self) -> list[PersonMessage]:
        room_id = self.asked.message.room_id
        return [one for _, one in self.world.changes if one.message.room_id == room_id]

    @property
    def calls(self) -> int:
        mine = [one for one in self.world.talker.talks if names(one)[-1] == self.asked.name]
        return len([one for one in mine if one.text or one.ended not in CUTS])

    @property
    def most_calls(self) -> int:
        once = 1 + len(self.changes)
        return once * (1 + self.world.restores) + self.world.ends - self.asked.earlier

    @property
    def is_excused(self) -> bool:
        """Tell whether its answer, or the thread of it, was taken away by somebody."""
        redacted = {one.event_id for one in self.world.asked if one.redacted}
        if self.asked.message.thread_root in redacted:
            return True
        if self.is_stopped_with(redacted):
            return True
        for key, sent in self.world.homeserver.own.items():
            to = to_of(sent.outgoing)
            if to is None:
                continue
            mine = self.asked.event_id in to.event_ids
            if mine and not redacted.isdisjoint(to.event_ids):
                return True
            if key in self.world.moderated and not self.tied.isdisjoint(to.event_ids):
                return True
        return False

    def is_stopped_with(self, redacted: set[EventId]) -> bool:
        """Tell whether somebody stopped it and took back one of these, asked with it perhaps."""
        if not any(name in {"🛑", "!stop"} for name, _ in self.world.changes):
            return False
        asked = [one for one in self.world.asked if one.event_id in redacted]
        return any(one.conversation == self.asked.conversation for one in asked)

    @property
    def tied(self) -> set[EventId]:
        """The messages that the ledger makes one prompt of with this one."""
        joined = self.world.ledger.joined
        first = joined.get(self.asked.event_id, self.asked.event_id)
        return {first, *(key for key, value in joined.items() if value == first)}

    @property
    def is_told(self) -> bool:
        """Tell whether its sender knows that it cannot be read."""
        message = self.asked.message
        day = (message.timestamp / 1000 + 30) // DAY * DAY
        return any(
            isinstance(sent.outgoing, Notice)
            and isinstance(sent.outgoing.to, Undecryptable)
            and sent.outgoing.to.sender == message.sender
            and sent.room_id == message.room_id
            and sent.at / 1000 >= day
            for _, sent in self.world.standing()
        )


class Words:
    """What one reply says."""

    def __init__(self, world: World, replies: Sequence[Reply]) -> None:
        self.world = world
        self.prompt = replies[-1].prompt
        self.replies = [one for one in replies if one.added != (TEXTS("void"),)]
        self.source = "".join(one.part.source for one in self.replies)
        self.added = self.replies[-1].added if self.replies else ()

    def check(self) -> None:
        last = self.prompt.event_ids[-1]
        [asked] = [one for one in self.world.asked if one.event_id == last]
        outcome = MessageOutcome(self.world, asked)
        if outcome.is_excused or self.is_spared(asked):
            return
        talks = [one for one in self.world.talker.talks if names(one)[-1] == asked.name]
        assert [one.part for one in self.replies] == list(split(self.source, PART))  # R4, R6
        told = [one.text for one in outcome.notices]
        stopped = {TEXTS("stopped"), TEXTS("stopped direct")}
        if stopped.intersection((*self.added, *told)):  # what stood stays, whoever had written it
            assert not self.source or any(one.text.startswith(self.source) for one in talks)
            assert self.source or self.added
            return
        newest = talks[-1]
        while len(talks) > 1 and self.is_void(talks[-1], told):
            talks.pop()
        assert self.source == talks[-1].text  # R4
        cut = CUTS.get(talks[-1].ended or "")
        cuts = {cut} if self.source else {*CUTS.values()}  # it may have been tried again
        assert cut is None or any(TEXTS(one) in self.added for one in cuts if one)  # R5
        if talks[-1] is newest:  # else somebody was told that no newer one came of it
            self.check_asked(newest)

    def is_spared(self, asked: PersonMessage) -> bool:
        """Tell whether it may say what it says, in its room or by the ledger that it is of."""
        return asked.message.room_id in self.world.closed or is_spared(self.world, asked)

    def is_void(self, talk: SimulatedRequest, told: Sequence[str]) -> bool:
        """Tell whether nothing of it was to be shown: it failed, or a backup knew better."""
        if self.world.restores and talk.ended is None:
            return True
        return bool(told) and not talk.text

    def check_asked(self, talk: SimulatedRequest) -> None:  # R7
        mine = [one for one in self.world.asked if one.event_id in self.prompt.event_ids]
        conversation = mine[-1].conversation
        prompts = [one for one in self.world.asked if one.kind == "prompt"]
        here = [one for one in prompts if one.conversation == conversation]
        spared = self.world.restores and "edited since a backup" in EXCEPTED
        if here[-1] is mine[-1] and not spared:
            for one in mine:
                assert one.words in talk.asked


def is_spared(world: World, asked: PersonMessage) -> bool:
    """Tell whether a ledger from a backup has led to what it may lead to."""
    expired_at = asked.message.timestamp / 1000 + DAY
    if "stub of a backup" in EXCEPTED and world.set_back_until > expired_at:
        return True
    if not world.restores or "joined of a backup" not in EXCEPTED:
        return False
    here = [one for one in world.asked if one.conversation == asked.conversation]
    return len(here) > 1


def reply_of(outgoing: Outgoing) -> Reply | None:
    if isinstance(outgoing, OutgoingEdit):
        return outgoing.reply
    return outgoing if isinstance(outgoing, Reply) else None


def names(talk: SimulatedRequest) -> list[str]:
    return re.findall(r"q\d+(?=v\d+v)", talk.asked)


def chosen(some: Sequence[Any], index: int) -> Any:  # noqa: ANN401  # whatever it is made of
    return some[index % len(some)]


@pytest.fixture
def _small_parts_and_no_log(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def complain(_: object, __: str, event: structlog.typing.EventDict) -> NoReturn:
        complaints.append(str(event))
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(
        processors=[complain],
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
        cache_logger_on_first_use=False,
    )
    monkeypatch.setattr(bot.core.draft, "Cuts", partial(Cuts, limit=PART))
    yield
    structlog.configure(**before)


@pytest.mark.timeout(0 if EXAMPLES > OFTEN else 300)
@pytest.mark.usefixtures("_small_parts_and_no_log", "untraced")
def test_whatever_happens_every_promise_holds() -> None:
    """Of these steps every one must have been taken, and kills have hit something to lose."""
    profile = settings(
        max_examples=EXAMPLES,
        stateful_step_count=STEPS,
        derandomize=EXAMPLES == OFTEN,  # what a change breaks, and no other's luck
        print_blob=True,
        # What is explained is traced line by line, and small is worth its while by hand alone.
        phases=set(Phase) - {Phase.explain} - ({Phase.shrink} if EXAMPLES == OFTEN else set()),
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(Promises, settings=profile)

    assert len(ran) == STEPS_KNOWN
    assert min(ran.values()) >= OFTEN // 50
    struck = {name.split()[-1] for name in happened} - {"between"}
    assert len(struck) >= len(set(DOOMS)) // 2
    assert struck >= {"admit", "finish", "put"}
    assert happened["killed between"] > OFTEN // 3  # with something to lose
    assert happened.total() - happened["killed between"] > OFTEN // 10


def test_the_table_of_faults_names_tests_that_are_there() -> None:
    tests = Path(__file__).parents[1]
    page = (tests.parent / "docs" / "reliability.md").read_text("utf-8")
    _, table = page.split("| fault | tests |")
    rows = [line for line in table.splitlines()[2:] if line.startswith("|")]

    assert len(rows) >= 28
    for row in rows:
        named = re.findall(r"`([\w/]+\.py)(?:::(?:\w+::)?(\w+))?`", row)
        assert named, row
        for file, test in named:
            there = re.search(rf"def {test or 'test_.*'}\(", (tests / file).read_text("utf-8"))
            assert there, (file, test)
