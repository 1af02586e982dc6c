// A person on matrix-js-sdk, Element's own stack: commands come in and events go out as JSON lines.
//
//   in:  {"id": 1, "command": "send_event", "arguments": {…}}
//   out: {"id": 1, "result": …} or {"id": 1, "error": "…"}
//        {"room_id": "!…", "event": {…}, "failure": null or why it could not be decrypted}
//        {"room_id": "!…", "user_id": "@…", "typing": whether they type}

import readline from "node:readline";
import * as sdk from "matrix-js-sdk";
import {
    AllDevicesIsolationMode,
    EventShieldColour,
    EventShieldReason,
    OnlySignedDevicesIsolationMode,
    VerificationPhase,
    VerifierEvent,
} from "matrix-js-sdk/lib/crypto-api/index.js";
import { decodeRecoveryKey } from "matrix-js-sdk/lib/crypto-api/recovery-key.js";

// matrix-js-sdk asks for Node 22; this is all that Node 20 lacks.
Promise.withResolvers ??= function () {
    let resolve, reject;
    const promise = new Promise((...both) => ([resolve, reject] = both));
    return { promise, resolve, reject };
};

// Standard output is for records alone; the SDK speaks to the console.
const verbose = process.argv.includes("--verbose");
for (const level of ["trace", "debug", "log", "info", "warn", "error"]) {
    console[level] = (...words) => verbose && process.stderr.write(words.join(" ") + "\n");
}

const say = (record) => process.stdout.write(JSON.stringify(record) + "\n");

let client, crypto, recoveryKey;
let request, verifier, emoji, failure; // of the last verification

const commands = {
    async start({ homeserver, user_id, device_id, access_token }) {
        client = sdk.createClient({
            baseUrl: homeserver,
            userId: user_id,
            deviceId: device_id,
            accessToken: access_token,
            cryptoCallbacks: {
                getSecretStorageKey: async ({ keys }) =>
                    recoveryKey ? [Object.keys(keys)[0], recoveryKey] : null,
            },
        });
        await client.initRustCrypto({ useIndexedDB: false });
        crypto = client.getCrypto();
        client.on(sdk.ClientEvent.Event, tellInOrder);
        client.on(sdk.RoomMemberEvent.Typing, (_, { roomId, userId, typing }) => {
            say({ room_id: roomId, user_id: userId, typing });
        });
        const synced = new Promise((resolve) => client.once(sdk.ClientEvent.Sync, resolve));
        await client.startClient({ initialSyncLimit: 100 });
        const state = await synced;
        if (state !== sdk.SyncState.Prepared) throw new Error(`first sync: ${state}`);
    },

    async send_event({ room_id, type, content }) {
        return (await client.sendEvent(room_id, type, content)).event_id;
    },

    // Invites somebody and lets them have the keys of what was said before (MSC4268).
    async invite_with_history({ room_id, user_id }) {
        await client.invite(room_id, user_id, { shareEncryptedHistory: true });
    },

    // What Element shows of a poll: the newest vote of each person, where it is valid.
    async tally({ room_id, event_id }) {
        const poll = client.getRoom(room_id)?.polls.get(event_id);
        if (!poll) return null;
        const newest = new Map();
        for (const event of (await poll.getResponses()).getRelations()) {
            const known = newest.get(event.getSender());
            if (!known || event.getTs() > known.getTs()) newest.set(event.getSender(), event);
        }
        const counts = {};
        for (const event of newest.values()) {
            const vote = event.unstableExtensibleEvent;
            vote.validateAgainst(poll.pollEvent);
            for (const answer of vote.spoiled ? [] : vote.answerIds) {
                counts[answer] = (counts[answer] ?? 0) + 1;
            }
        }
        return counts;
    },

    async bootstrap_cross_signing({ password, reset }) {
        const identifier = { type: "m.id.user", user: client.getUserId() };
        await crypto.bootstrapCrossSigning({
            setupNewCrossSigning: reset,
            async authUploadDeviceSigningKeys(upload) {
                try {
                    await upload(null);
                } catch (error) {
                    const session = error.data?.session;
                    if (!session) throw error;
                    await upload({ type: "m.login.password", identifier, password, session });
                }
            },
        });
        return crypto.isCrossSigningReady();
    },

    // What Element does with a recovery key: the identity, this device's signature, the backup.
    async restore_identity({ recovery_key }) {
        recoveryKey = decodeRecoveryKey(recovery_key.trim());
        await crypto.userHasCrossSigningKeys(client.getUserId(), true);
        await crypto.bootstrapCrossSigning({
            authUploadDeviceSigningKeys() {
                throw new Error("the identity would be replaced");
            },
        });
        await crypto.loadSessionBackupPrivateKeyFromSecretStorage();
        const { privateKeysCachedLocally } = await crypto.getCrossSigningStatus();
        const backup = await crypto.getKeyBackupInfo();
        const trust = await crypto.isKeyBackupTrusted(backup);
        const { total, imported } = await crypto.restoreKeyBackup();
        return { cached: privateKeysCachedLocally, trusted: trust.trusted, total, imported };
    },

    async isolate({ on }) {
        crypto.setDeviceIsolationMode(
            on ? new OnlySignedDevicesIsolationMode() : new AllDevicesIsolationMode(false),
        );
    },

    // Asks somebody to verify each other: in a room, or one of their devices by to-device messages.
    // The crypto cancels a request where it has another with the same person, and forgets one that
    // is over at the next sync only: what is set here comes back with one.
    async request_verification({ user_id, room_id, device_id }) {
        verifier = emoji = failure = undefined;
        for (const step of ["one", "two"]) {
            await client.setAccountData("fr.gouv.assistant.test", { step, at: Date.now() });
        }
        request = device_id
            ? await crypto.requestDeviceVerification(user_id, device_id)
            : await crypto.requestVerificationDM(user_id, room_id);
    },

    async start_verification() {
        verifier = await request.startVerification("m.sas.v1");
        verifier.on(VerifierEvent.ShowSas, ({ sas }) => (emoji = sas.emoji));
        verifier.verify().catch((error) => (failure = String(error)));
    },

    async verification() {
        return {
            phase: VerificationPhase[request.phase],
            code: request.cancellationCode ?? null,
            emoji: emoji?.map(([sign]) => sign) ?? null,
            failure: failure ?? null,
        };
    },

    async compare_emoji({ same }) {
        const shown = verifier.getShowSasCallbacks();
        same ? await shown.confirm() : shown.mismatch();
    },

    async cancel_verification() {
        await request.cancel();
    },

    async exclude_unverified() {
        crypto.globalBlacklistUnverifiedDevices = true;
    },

    async status({ user_id, device_id }) {
        const user = await crypto.getUserVerificationStatus(user_id);
        const device = device_id && (await crypto.getDeviceVerificationStatus(user_id, device_id));
        return {
            known: user.known,
            cross_signing_verified: user.isCrossSigningVerified(),
            needs_user_approval: user.needsUserApproval,
            device: device
                ? {
                      signed_by_owner: device.signedByOwner,
                      cross_signing_verified: device.crossSigningVerified,
                  }
                : null,
        };
    },

    async shield({ room_id, event_id }) {
        const event = client.getRoom(room_id)?.findEventById(event_id);
        const info = event && (await crypto.getEncryptionInfoForEvent(event));
        return info
            ? {
                  colour: EventShieldColour[info.shieldColour],
                  reason: EventShieldReason[info.shieldReason] ?? null,
              }
            : null;
    },

    // Whether a client tells its user of an event, by the push rules of an account that has changed
    // none; the rules are applied once it is decrypted.
    async notifies({ room_id, event_id }) {
        const event = client.getRoom(room_id).findEventById(event_id);
        await event.getDecryptionPromise();
        const actions = client.getPushActionsForEvent(event, true);
        return { // null where no rule is about such an event
            notify: actions?.notify ?? false,
            highlight: actions?.tweaks?.highlight ?? false,
        };
    },

    // What a client without a cache holds of a room once it has read it to its beginning. It is a
    // device of its own, with the room's keys: after a reload an app has its keys, but no timeline.
    async page_back({ room_id, password, limit }) {
        const other = await logIn(password);
        try {
            const keys = await crypto.exportRoomKeys();
            const theirs = keys.filter((key) => key.room_id === room_id);
            await other.getCrypto().importRoomKeys(theirs);
            const room = await enter(other, room_id);
            return await readBack(other, room, limit);
        } finally {
            await other.logout(true);
        }
    },
};

async function logIn(password) {
    const { baseUrl } = client;
    const login = await sdk.createClient({ baseUrl }).loginRequest({
        type: "m.login.password",
        identifier: { type: "m.id.user", user: client.getUserId() },
        password,
    });
    const other = sdk.createClient({
        baseUrl,
        userId: login.user_id,
        deviceId: login.device_id,
        accessToken: login.access_token,
        timelineSupport: true,
    });
    await other.initRustCrypto({ useIndexedDB: false });
    return other;
}

// Starts a client as Element does, but with one room, and the last of its events alone.
async function enter(other, room_id) {
    const filter = new sdk.Filter(other.getUserId());
    filter.setDefinition({ room: { rooms: [room_id], timeline: { limit: 1 } } });
    const synced = new Promise((resolve) => other.once(sdk.ClientEvent.Sync, resolve));
    await other.startClient({
        filter,
        initialSyncLimit: 1,
        lazyLoadMembers: true,
        pendingEventOrdering: sdk.PendingEventOrdering.Detached,
        threadSupport: true,
    });
    const state = await synced;
    if (state !== sdk.SyncState.Prepared) throw new Error(`first sync: ${state}`);
    return other.getRoom(room_id);
}

async function readBack(other, room, limit) {
    const main = await pages(other, room.getUnfilteredTimelineSet(), limit);
    await room.createThreadsTimelineSets();
    await room.fetchRoomThreads();
    const threads = {};
    for (const thread of room.getThreads()) {
        while (!thread.initialEventsFetched) {
            await new Promise((resolve) => thread.once(sdk.ThreadEvent.Update, resolve));
        }
        threads[thread.id] = await pages(other, thread.timelineSet, limit);
    }
    const shown = async (window) => (await tiles(other, window)).map(describeTile);
    const read = { main: await shown(main), threads: {} };
    for (const id in threads) read.threads[id] = await shown(threads[id]);
    return read;
}

// Element's TimelinePanel looks at a timeline through such a window, and scrolls it.
async function pages(other, timelineSet, limit) {
    const window = new sdk.TimelineWindow(other, timelineSet, { windowLimit: Number.MAX_VALUE });
    await window.load(undefined, limit);
    while (window.canPaginate(sdk.Direction.Backward)) {
        await window.paginate(sdk.Direction.Backward, limit);
    }
    return window;
}

// The window's messages, once nothing of them is being decrypted or replaced any more.
async function tiles(other, window) {
    for (;;) {
        const events = window.getEvents();
        const all = events.flatMap((event) => [event, event.replacingEvent() ?? event]);
        const waiting = all.filter((one) => one.isBeingDecrypted() || one.shouldAttemptDecryption());
        await Promise.all(waiting.map((one) => other.decryptEventIfNeeded(one)));
        await new Promise(setImmediate); // what waits for these decryptions goes first
        if (!waiting.length) return events.filter((event) => !event.isState() && !isEdit(event));
    }
}

const isEdit = (event) => event.isRelation(sdk.RelationType.Replace);

// As it stands: with its edits and redactions, as the SDK applies them.
function describeTile(event) {
    const failure = event.isDecryptionFailure() ? event.decryptionFailureReason : null;
    const relation = event.getWireContent()["m.relates_to"];
    return {
        event: {
            event_id: event.getId(),
            sender: event.getSender(),
            type: event.getType(),
            origin_server_ts: event.getTs(),
            content: { ...event.getContent(), ...(relation && { "m.relates_to": relation }) },
        },
        redacted: event.isRedacted(),
        failure,
    };
}

// Decryption is asynchronous: without the queue a later event could be told before an earlier one.
let told = Promise.resolve();
function tellInOrder(event) {
    if (event.getRoomId() && (event.getId() || event.isState())) told = told.then(() => tell(event));
}

async function tell(event) {
    await client.decryptEventIfNeeded(event);
    say(describe(event));
    if (event.isDecryptionFailure()) {
        event.on(sdk.MatrixEventEvent.Decrypted, () => say(describe(event)));
    }
}

function describe(event) {
    const failure = event.isDecryptionFailure() ? event.decryptionFailureReason : null;
    const relation = event.getWireContent()["m.relates_to"];
    const clear = {
        type: event.getType(),
        content: { "m.relates_to": relation, ...event.getOriginalContent() },
    };
    return {
        room_id: event.getRoomId(),
        event: { ...event.event, ...(failure ? {} : clear) },
        failure,
    };
}

async function obey({ id, command, arguments: options }) {
    try {
        say({ id, result: (await commands[command](options)) ?? null });
    } catch (error) {
        say({ id, error: String(error) });
    }
}

const lines = readline.createInterface({ input: process.stdin });
lines.on("line", (line) => obey(JSON.parse(line)));
lines.on("close", () => process.exit()); // the parent is gone, or done with us
