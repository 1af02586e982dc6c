"""The responder: send a prompt's context to the model, and stream its completion as the reply."""

import asyncio
from contextlib import AsyncExitStack
from functools import partial

import structlog

from bot.errors import FatalError, MatrixError
from bot.ports.matrix import Matrix
from bot.replies.completion import Completions
from bot.replies.context_builder import Contexts
from bot.replies.generations import Generation

log = structlog.get_logger()


class Responder:
    """Answers prompts.

    Attributes:
        restored: set when the unfinished prompts of earlier processes are queued again.
    """

    def __init__(self, *, matrix: Matrix, contexts: Contexts, completions: Completions) -> None:
        self.restored = asyncio.Event()
        self._matrix = matrix
        self._contexts = contexts
        self._completions = completions

    async def answer(self, generation: Generation) -> None:
        """Stream the completion into one reply by editing it.

        If the prompt changes meanwhile, the same reply restarts with a new request to the model.
        """
        reply = generation.reply
        async with (
            self._matrix.attention(generation.prompt),
            AsyncExitStack() as slot,  # until the final version is sent: the next context needs it
            reply.shown(),
        ):
            generation.prompt = reply.prompt
            chosen = await self._contexts.chosen(generation.prompt.conversation)
            reply.speak(chosen.texts)
            if not await generation.wait(chosen.texts):
                return
            await slot.enter_async_context(generation.slot)
            await self.restored.wait()  # an unfinished message may join the prompt
            while not await reply.settled():
                reply.restarted()
                await self._ask(generation)
                if not reply.restarted():
                    break

    async def _ask(self, generation: Generation) -> None:
        """Request one completion for the current prompt, and stream it into the reply."""
        reply, prompt = generation.reply, generation.prompt
        chosen = await self._contexts.chosen(prompt.conversation)
        reply.speak(chosen.texts)
        reply.say(partial(chosen.texts, "working"))
        try:
            context = await self._contexts.of(prompt, chosen.card)
        except FatalError:
            raise
        except MatrixError as error:
            log.warning("no context", reason=str(error))
            reply.fail("bug")
            return
        above = self._contexts.remarks(context, chosen.texts)
        await reply.begin(prompt, chosen.card.id, above, generation.remarks)
        completion = self._completions.begin(context.turns, chosen.card)
        reply.say(partial(completion.status, chosen.texts))
        await reply.read(completion.stream())
