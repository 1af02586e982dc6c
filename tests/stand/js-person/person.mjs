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
} from "matrix-js-sdk/lib/crypto-api/index.js";

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

let client, crypto;

const commands = {
    async start({ homeserver, user_id, device_id, access_token }) {
        client = sdk.createClient({
            baseUrl: homeserver,
            userId: user_id,
            deviceId: device_id,
            accessToken: access_token,
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

    async isolate({ on }) {
        crypto.setDeviceIsolationMode(
            on ? new OnlySignedDevicesIsolationMode() : new AllDevicesIsolationMode(false),
        );
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
};

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
