/*
 * The protocol of the migration epoch, for Spin: what docs/protocol.md promises, tried in every order of events.
 *
 * One atomic step is what a server does atomically: it applies one multi or one setACL, or answers one read. Between
 * two steps of a process anything else may happen, so that a process that is stopped and wakes up as a zombie needs no
 * rule of its own. An answer that comes is part of the step that it answers, since nothing its process does can depend
 * on it earlier. What is lost is a message in `net`: it may be applied at any later moment, after its sender's end and
 * after another has taken over, or never.
 *
 *   Server     applies multis; each transition of the record has its label here
 *   Migrator   two that apply, resume and roll back, crash, and begin again; the third goes on where they have ended
 *   Reader     two that take views; the second acts on them
 *   Foreign    writes to paths of the plan
 *   Admin      runs init; deletes the control plane and runs init again
 *   Holder     sets a hold and releases it: the record's version moves, and nothing else of it
 *   Time       ends the time of leases
 *
 * The tree has two paths. A plan writes the first in batch 0; batch 1 creates the second or, if it is there, deletes
 * it. Values are numbers that tell who wrote them. What the model leaves out is written in docs/protocol.md.
 *
 * Budgets (-D): LIVES commands of migrators, LOSSES of answers, FOREIGN writes, DROPS of the control plane,
 * HOLDS set or released, VIEWS of each reader, ATTEMPTS, EPOCHS; EMPTY_FIRST, ACLS, SHOT. Switches of the negative controls: those after
 * "switched off" below.
 */

#ifndef LIVES
#define LIVES 2
#endif
#ifndef LOSSES
#define LOSSES 1
#endif
#ifndef FOREIGN
#define FOREIGN 1
#endif
#ifndef DROPS
#define DROPS 0
#endif
#ifndef HOLDS
#define HOLDS 0
#endif
#ifndef VIEWS
#define VIEWS 1
#endif
#ifndef VIEWERS
#define VIEWERS 0
#endif
#ifndef ACTORS
#define ACTORS 0
#endif
#ifndef ATTEMPTS
#define ATTEMPTS 2
#endif
#ifndef EPOCHS
#define EPOCHS 1
#endif

/* States of the record. */
#define ABSENT 0
#define EMPTY 1
#define STABLE 2
#define PREPARING 3
#define OPEN 4
#define ROLLING_BACK 5
#define AT_REST(state) (state == STABLE || state == EMPTY)
#define MIGRATING(state) (state >= PREPARING)

/* Values of paths: 0 is no node. */
#define FIRST_VALUE 1
#define OF_ATTEMPT(attempt) (10 + attempt)
#define IS_FOREIGN(value) (value > 20)

/* ACLs. */
#define OLD_ACL 1
#define TIGHT_ACL(attempt) (10 + attempt)
#define NEW_ACL(attempt) (20 + attempt)

/* Leases. */
#define NO_LEASE 0
#define HELD 1
#define RELEASED 2
#define OVER 3

/* Kinds of messages. */
#define NOTHING 0
#define INIT 1
#define DROP 2
#define BUMP 3
#define JOURNAL 4
#define PREPARE 5
#define ABORT 6
#define OPEN_EPOCH 7
#define SINGLE_SHOT 8
#define BATCH 9
#define COMMIT 10
#define CONFLICT 11
#define BEGIN_ROLLBACK 12
#define UNDO 13
#define END_ROLLBACK 14
#define FINISHED 15
#define SWEEP 16
#define ADMIT 17
#define RELEASE 18
#define SET_ACL 19

/* Answers. */
#define OK 1
#define BAD_INCARNATION 2
#define BAD_RECORD 3
#define BAD_OWNER 4
#define BAD_WITNESS 5
#define BAD_OPERATION 6

/* Switched off, one at a time, by the negative controls; any of them has to be caught. */
#ifdef NO_INCARNATION
#define IS_INCARNATION (incarnation != 0)
#else
#define IS_INCARNATION (incarnation != 0 && q.inc == incarnation)
#endif
#ifdef NO_OWNER_CHECK
#define IS_OWNER true
#else
#define IS_OWNER (q.token == owner)
#endif
#ifdef NO_RECORD_CHECK
#define IS_RECORD (q.kind != BATCH || true)
#else
#define IS_RECORD (q.rv == record)
#endif
#ifdef NO_CURSOR
#define IS_CURSOR true
#else
#define IS_CURSOR (cursor[q.att] == q.index)
#endif
#ifdef NO_UNDO_CURSOR
#define IS_UNDO_CURSOR true
#else
#define IS_UNDO_CURSOR (rcursor[q.att] == q.index)
#endif
#ifdef NO_VERSIONS
#define HAS_VERSION(path, expected) true
#else
#define HAS_VERSION(path, expected) (version[path] == expected)
#endif

#ifdef NO_OPEN_CHECKS
#define IS_PINNED(path) true
#else
#define IS_PINNED(path) (before[AT(q.att, path)] == 0 || \
    value[path] != 0 && version[path] == before_version[AT(q.att, path)])
#endif
#ifdef NO_COMMIT_CHECKS
#define IS_CHECKED_IN_COMMIT true
#else
#define IS_CHECKED_IN_COMMIT (version[0] == (before[AT(q.att, 0)] == 0 -> 0 : before_version[AT(q.att, 0)] + 1))
#endif
#ifdef UNDO_BY_NUMBER
#define IS_KEPT_ATTEMPT true
#else
#define IS_KEPT_ATTEMPT (kept_att == my_att)
#endif
#ifdef NO_OVERLAY
#define IS_OVERLAID false
#else
#define IS_OVERLAID (my_state == OPEN || my_state == ROLLING_BACK)
#endif
#ifdef NO_SECOND_READ
#define HAS_MOVED false
#else
#define HAS_MOVED (incarnation != my_inc || record != my_rv)
#endif
#ifdef ADMIT_WITHOUT_RECORD
#define IS_RECORD_OF_VIEW true
#else
#define IS_RECORD_OF_VIEW (q.rv == record)
#endif
#if HOLDS > 0
#define IS_HELD held
#define CONTENT (record - holds)  /* moves when anything but the hold does */
#else
#define IS_HELD false
#define CONTENT record
#endif
#ifdef NO_ADOPTION
#define IS_ONLY_HELD false
#else
#ifdef ADOPT_ANY
#define IS_ONLY_HELD (incarnation == my_inc && record != my_rv)
#else
#define IS_ONLY_HELD (incarnation == my_inc && record != my_rv && CONTENT == my_rv - my_holds)
#endif
#endif
#ifdef LEASES_END_EARLY
#define IS_LEASE_OVER (lease != NO_LEASE)
#else
#define IS_LEASE_OVER (lease == RELEASED || lease == OVER)
#endif

typedef Message {
    byte kind;
    byte inc;    /* checked: the incarnation's name, */
    byte rv;     /* the record's version, */
    byte token;  /* the owner's token */
    byte att;    /* the attempt */
    byte index;  /* of the batch; or the version that a setACL expects; or the lease's version */
    byte value;  /* state to return to; or the ACL; or whether to leave a foreign value */
    byte epoch;  /* the committed one, as the sender's record has it */
    byte who;    /* the sender's life: what makes data of its owner and record nodes its own */
}

/* -- on the servers ----------------------------------------------------------------------------------------------- */

byte incarnation;            /* its name; 0: there is no control plane */
byte record;                 /* dataVersion of the record; then its fields */
byte state = ABSENT;
byte base;
byte epoch;
byte attempt;
byte frozen;                 /* the cursor when the rollback began */
bit pending;
bit conflict;
byte record_by;
#if HOLDS > 0
byte holds;                  /* of the record's moves those of the hold alone */
bit held;
#endif
byte owner;                  /* dataVersion of the owner node: the token */
byte owner_by;
byte journal[ATTEMPTS + 1];  /* the incarnation that it lies in; 0: not there */
byte cursor[ATTEMPTS + 1];
byte rcursor[ATTEMPTS + 1];
byte before[2 * (ATTEMPTS + 1)];          /* undo: value and version of each path */
byte before_version[2 * (ATTEMPTS + 1)];
bit deviation[2 * (ATTEMPTS + 1)];
byte lease;
byte lease_version;
byte value[2];               /* the tree */
byte version[2];
#ifdef ACLS
byte acl = OLD_ACL;          /* of the first path */
byte aversion;
byte acl_before[ATTEMPTS + 1];
byte aversion_before[ATTEMPTS + 1];
byte acl_attempt;            /* whose setACL may still apply */
#endif

/* -- on their way -------------------------------------------------------------------------------------------------- */

Message q;                   /* the request that is being made; 0 between steps */
Message net[2];              /* sent, and its sender does not know what became of it */
chan server = [0] of { byte };
chan answer = [0] of { bit };
byte reply;

/* -- what is left of the budgets, and ghosts: what the assertions know and no process does ------------------------- */

byte lives = LIVES;
byte losses = LOSSES;
byte incarnations;
byte attempts;
byte image[2];               /* of the committed epoch */
byte batches_done[ATTEMPTS + 1];
byte undone[ATTEMPTS + 1];
byte found_by[2];            /* the life of the owner who has last found each path as the plan leaves it, to commit */
bit acting;
byte at_work;                /* migrators that carry out a command */
byte last_commands;          /* of the last one */

#define HAS_ROOM (net[0].kind == NOTHING || net[1].kind == NOTHING)
#define AT(att, path) (2 * (att) + path)

inline clear_request() {
    q.kind = NOTHING; q.inc = 0; q.rv = 0; q.token = 0; q.att = 0; q.index = 0; q.value = 0; q.epoch = 0; q.who = 0
}

inline take_from(slot) {
    q.kind = net[slot].kind; q.inc = net[slot].inc; q.rv = net[slot].rv; q.token = net[slot].token;
    q.att = net[slot].att; q.index = net[slot].index; q.value = net[slot].value; q.epoch = net[slot].epoch;
    q.who = net[slot].who;
    net[slot].kind = NOTHING; net[slot].inc = 0; net[slot].rv = 0; net[slot].token = 0; net[slot].att = 0;
    net[slot].index = 0; net[slot].value = 0; net[slot].epoch = 0; net[slot].who = 0
}

inline put_into(slot) {
    net[slot].kind = q.kind; net[slot].inc = q.inc; net[slot].rv = q.rv; net[slot].token = q.token;
    net[slot].att = q.att; net[slot].index = q.index; net[slot].value = q.value; net[slot].epoch = q.epoch;
    net[slot].who = q.who
}

/* Ways of a request to the server. */
#define ANSWERED 1
#define LEFT_IN_NET 2

/* -- the server ---------------------------------------------------------------------------------------------------- */

/* Whether the plan's operation on `path` can be applied: a create of a node that is not there, or a write or delete of
   one at its version. */
inline can_apply(path) {
    if
    :: before[AT(q.att, path)] == 0 -> can = (value[path] == 0)
    :: else -> can = (value[path] != 0 && HAS_VERSION(path, before_version[AT(q.att, path)]))
    fi
}

inline apply_operation(path) {
    assert(value[path] == before[AT(q.att, path)]);  /* P6: nothing is overwritten but what the plan has seen */
    if
    :: before[AT(q.att, path)] == 0 -> value[path] = OF_ATTEMPT(q.att); version[path] = 0
    :: else ->
        if
        :: path == 0 -> value[path] = OF_ATTEMPT(q.att); version[path]++
        :: else -> value[path] = 0; version[path] = 0
        fi
    fi
}

inline can_undo(path) {
    if
    :: before[AT(q.att, path)] == 0 -> can = (value[path] != 0 && HAS_VERSION(path, 0))
    :: else ->
        if
        :: path == 0 -> can = (value[path] != 0 && HAS_VERSION(path, before_version[AT(q.att, path)] + 1))
        :: else -> can = (value[path] == 0)
        fi
    fi
}

inline undo_operation(path) {
    if
    :: before[AT(q.att, path)] == 0 || path == 0 ->
        assert(value[path] == OF_ATTEMPT(q.att))  /* P6: nothing is undone but what the attempt has written */
    :: else
    fi;
    value[path] = before[AT(q.att, path)];
    if
    :: value[path] != 0 && path == 0 -> version[path]++
    :: else -> version[path] = 0
    fi
}

/* P1 and P6, the commit: what is there is all that the attempt has written. Of the second path, which stands for those
   that a commit cannot check, absent ones and what does not fit, it may be somebody else's, if it came after the look. */
inline is_new(path) {
    assert(((before[AT(q.att, path)] == 0 || path == 0) -> value[path] == OF_ATTEMPT(q.att) : value[path] == 0) ||
        (path == 1 && IS_FOREIGN(value[path]) && found_by[path] == q.who))
}

/* The rollback's end: as before, or foreign; nothing of the attempt is left. A foreign value in the way was reported. */
inline is_old(path) {
    assert(value[path] == before[AT(q.att, path)] || IS_FOREIGN(value[path]) || deviation[AT(q.att, path)])
}

inline set_record(new_state) {
    assert(q.epoch >= epoch);
    record++; state = new_state; epoch = q.epoch; record_by = q.who
}

inline forget(which) {
    before[AT(which, 0)] = 0; before[AT(which, 1)] = 0; before_version[AT(which, 0)] = 0; before_version[AT(which, 1)] = 0
}

inline close_attempt() {
    attempt = 0; frozen = 0; conflict = 0; found_by[0] = 0; found_by[1] = 0
}

proctype Server() {
    byte result;
    byte way;
    bit can;
end:
    do
    :: atomic {
        if
        :: server?way
        :: net[0].kind != NOTHING -> take_from(0)
        :: net[1].kind != NOTHING -> take_from(1)
        fi;
        if
        :: way == LEFT_IN_NET ->
            if
            :: net[0].kind == NOTHING -> put_into(0)
            :: else -> put_into(1)
            fi;
            clear_request(); way = 0;
            goto end
        :: else
        fi;
        result = OK;
        /* The head of every multi. */
        if
        :: q.kind == INIT || q.kind == DROP || q.kind == SET_ACL
        :: q.kind == RELEASE ->
            if
            :: incarnation == 0 || q.inc != incarnation -> result = BAD_INCARNATION  /* acting/ of that one is gone */
            :: else
            fi
        :: q.kind == ADMIT ->
            if
            :: !IS_INCARNATION -> result = BAD_INCARNATION
            :: IS_INCARNATION && !IS_RECORD_OF_VIEW -> result = BAD_RECORD
            :: else
            fi
        :: q.kind == BUMP ->
            if
            :: !IS_INCARNATION -> result = BAD_INCARNATION
            :: IS_INCARNATION && q.token != owner -> result = BAD_OWNER
            :: else
            fi
        :: else ->
            if
            :: !IS_INCARNATION -> result = BAD_INCARNATION
            :: IS_INCARNATION && !IS_RECORD -> result = BAD_RECORD
            :: IS_INCARNATION && IS_RECORD && !IS_OWNER -> result = BAD_OWNER
            :: else
            fi
        fi;
        /* Its operations, and what must hold when they apply. */
        if
        :: result != OK
        :: result == OK && q.kind == INIT ->
            incarnations++;
            incarnation = incarnations;
            owner = 0; owner_by = 0; record = 0; record_by = 0; epoch = 0; pending = 0;
            image[0] = value[0]; image[1] = value[1];
            if
            :: value[0] == 0 && value[1] == 0 ->
init_empty_ABSENT_EMPTY:
                state = EMPTY
            :: else ->
init_stable_ABSENT_STABLE:
                state = STABLE
            fi;
            base = state
        :: result == OK && q.kind == DROP ->
            incarnation = 0; state = ABSENT; record = 0; owner = 0; epoch = 0; pending = 0; lease = NO_LEASE;
            lease_version = 0; record_by = 0; owner_by = 0; base = 0;
#if HOLDS > 0
            holds = 0; held = 0;
#endif
            close_attempt();
            journal[1] = 0;
            journal[ATTEMPTS] = 0
        :: result == OK && q.kind == BUMP ->
            owner++; owner_by = q.who
        :: result == OK && q.kind == ADMIT ->
            if
            :: lease_version != q.index -> result = BAD_WITNESS
            :: else ->
                assert(state == STABLE && epoch == q.epoch && q.inc == incarnation);  /* P2: on the committed epoch, */
                assert(!IS_HELD);                                                     /* and under no hold */
                lease = HELD; lease_version++
            fi
        :: result == OK && q.kind == RELEASE ->
            lease = RELEASED; lease_version++
#ifdef ACLS
        :: result == OK && q.kind == SET_ACL ->
            if
            :: aversion != q.index -> result = BAD_OPERATION
            :: else ->
                assert(acl_attempt == q.att);  /* P3: no setACL of an attempt that is over */
                acl = q.value; aversion++
            fi
#endif
        :: else ->
            /* P3: one writer, of this incarnation. Every write of a migrator but setACL comes here. */
            assert(q.inc == incarnation && q.token == owner);
            if
            :: q.kind == JOURNAL ->
                if
                :: journal[q.att] != 0 -> result = BAD_WITNESS
                :: else -> journal[q.att] = incarnation
                fi
            :: q.kind == SWEEP ->
                lease = NO_LEASE; lease_version = 0
            :: q.kind == PREPARE ->
                assert(AT_REST(state));
                attempt = q.att;
                base = q.value;
#ifdef ACLS
                acl_attempt = q.att;
#endif
                if
                :: state == STABLE ->
prepare_STABLE_PREPARING:
                    set_record(PREPARING)
                :: state == EMPTY ->
prepare_EMPTY_PREPARING:
                    set_record(PREPARING)
                fi
            :: q.kind == ABORT ->
                assert(state == PREPARING && batches_done[q.att] == 0);
                close_attempt();
                forget(q.att);
                journal[q.att] = 0;
                if
                :: q.value == STABLE ->
abort_PREPARING_STABLE:
                    set_record(STABLE)
                :: q.value == EMPTY ->
abort_PREPARING_EMPTY:
                    set_record(EMPTY)
                fi
            :: q.kind == SINGLE_SHOT ->
                can_apply(0);
                if
                :: can -> can_apply(1)
                :: else
                fi;
                if
                :: !can -> result = BAD_OPERATION
                :: else ->
                    assert(!acting);  /* P2: every admitted action is over */
                    assert(state == PREPARING);
                    apply_operation(0);
                    apply_operation(1);
                    image[0] = value[0]; image[1] = value[1];
                    close_attempt();
                    q.epoch++;
commit_single_shot_PREPARING_STABLE:
                    set_record(STABLE)
                fi
            :: q.kind == OPEN_EPOCH ->
                if
                :: !IS_PINNED(0) || !IS_PINNED(1) -> result = BAD_OPERATION
                :: else ->
                    assert(state == PREPARING);
                    /* P1: no view goes back. Absence cannot be checked: what others create just now is hidden. */
                    assert(before[AT(q.att, 0)] == 0 || before[AT(q.att, 0)] == image[0]);
                    assert(before[AT(q.att, 1)] == 0 || before[AT(q.att, 1)] == image[1]);
                    image[0] = before[AT(q.att, 0)]; image[1] = before[AT(q.att, 1)];
open_PREPARING_OPEN:
                    set_record(OPEN)
                fi
            :: q.kind == BATCH ->
                can_apply(q.index);
                if
                :: !IS_CURSOR -> result = BAD_WITNESS
                :: IS_CURSOR && !can -> result = BAD_OPERATION
                :: else ->
                    assert(!acting);  /* P2 */
                    assert(state == OPEN && attempt == q.att);
                    assert(batches_done[q.att] == q.index);  /* P3: each batch once, in order */
                    batches_done[q.att]++;
                    apply_operation(q.index);
                    cursor[q.att]++
                fi
            :: q.kind == COMMIT ->
                if
                :: cursor[q.att] != 2 -> result = BAD_WITNESS
                :: cursor[q.att] == 2 && !IS_CHECKED_IN_COMMIT -> result = BAD_OPERATION
                :: else ->
                    assert(state == OPEN && attempt == q.att && batches_done[q.att] == 2);
                    is_new(0);
                    is_new(1);
                    image[0] = value[0]; image[1] = value[1];
                    close_attempt();
                    q.epoch++;
#ifdef ACLS
                    pending = 1;
#endif
commit_OPEN_STABLE:
                    set_record(STABLE)
                fi
            :: q.kind == CONFLICT ->
                record++; record_by = q.who;
#ifndef NO_CONFLICT_NOTE
                conflict = 1
#endif
            :: q.kind == BEGIN_ROLLBACK ->
                if
                :: cursor[q.att] != q.index -> result = BAD_WITNESS
                :: else ->
                    assert(state == OPEN && attempt == q.att);
                    frozen = q.index; conflict = 0;
begin_rollback_OPEN_ROLLING_BACK:
                    set_record(ROLLING_BACK)
                fi
            :: q.kind == UNDO ->
                can_undo(frozen - 1 - q.index);
                if
                :: !IS_UNDO_CURSOR -> result = BAD_WITNESS
                :: IS_UNDO_CURSOR && q.value == 0 && !can -> result = BAD_OPERATION
                :: else ->
                    assert(state == ROLLING_BACK && attempt == q.att);
                    assert(undone[q.att] == q.index && q.index < batches_done[q.att]);  /* P3 */
                    undone[q.att]++;
                    if
                    :: q.value == 0 -> undo_operation(frozen - 1 - q.index)
                    :: else -> deviation[AT(q.att, frozen - 1 - q.index)] = 1
                    fi;
                    rcursor[q.att]++
                fi
            :: q.kind == END_ROLLBACK ->
                if
                :: cursor[q.att] != frozen || rcursor[q.att] != frozen -> result = BAD_WITNESS
                :: else ->
                    assert(state == ROLLING_BACK && undone[q.att] == batches_done[q.att]);
                    is_old(0);
                    is_old(1);
                    image[0] = value[0]; image[1] = value[1];
#ifdef ACLS
                    assert(acl == acl_before[q.att]);
                    acl_attempt = 0;
#endif
                    close_attempt();
                    if
                    :: q.value == STABLE ->
end_rollback_ROLLING_BACK_STABLE:
                        set_record(STABLE)
                    :: q.value == EMPTY ->
end_rollback_ROLLING_BACK_EMPTY:
                        set_record(EMPTY)
                    fi
                fi
#ifdef ACLS
            :: q.kind == FINISHED ->
                assert(acl == NEW_ACL(q.att));
                acl_attempt = 0;
                record++; pending = 0; record_by = q.who
#endif
            fi
        fi;
        can = 0;
        clear_request();
        if
        :: way != ANSWERED -> result = 0; goto end
        :: else
        fi;
        way = 0;
        reply = result;
        result = 0;
        answer!1  /* last, so that whoever asks next finds it listening */
       }
    od
}

/* -- migrators ----------------------------------------------------------------------------------------------------- */

#define APPLY 1
#define RESUME 2
#define ROLLBACK 3
#define LAST 2  /* the migrator that nothing happens to */
#define LAST_COMMANDS 2  /* that it takes from anywhere to rest, at most */
#define CAN_BEGIN (incarnation != 0 && \
    (me == LAST && at_work == 0 || me != LAST && lives > 0 && (me == 0 || lives < LIVES)))

inline ask(a_kind, a_att, a_index, a_value) {
    assert(q.kind == NOTHING);
    q.kind = a_kind; q.inc = my_inc; q.rv = my_rv; q.token = token; q.att = a_att; q.index = a_index;
    q.value = a_value; q.epoch = my_epoch; q.who = life
}

/* One request: answered; or not, and then it is sent again; or its sender crashes, before it is sent or after. One that
   fails at the record, which differs in nothing but the hold, is sent again under that. */
inline call(a_kind, a_att, a_index, a_value) {
    do
    :: atomic { ask(a_kind, a_att, a_index, a_value); server!ANSWERED; answer?_; got = reply; reply = 0 };
#if HOLDS > 0
        if
        :: atomic { got == BAD_RECORD && IS_ONLY_HELD -> my_rv = record; my_holds = holds; got = 0 }
        :: else -> break
        fi
#else
        break
#endif
    :: atomic {
        me != LAST && losses > 0 && HAS_ROOM ->
        losses--; resent = 1;
        ask(a_kind, a_att, a_index, a_value); server!LEFT_IN_NET
       }
    :: atomic {
        me != LAST ->
        if
        :: HAS_ROOM -> ask(a_kind, a_att, a_index, a_value); server!LEFT_IN_NET
        :: true
        fi;
        goto over
       }
    od
}

/* The next batch, sent before this one was answered, is left behind too. */
inline leave_next(a_kind, a_att, a_index) {
    if
    :: atomic {
        me != LAST && resent && HAS_ROOM && a_index == 0 && a_index + 1 < (a_kind == BATCH -> 2 : my_frozen) ->
        ask(a_kind, a_att, a_index + 1, 0); server!LEFT_IN_NET
       }
    :: true
    fi
}

/* A multi that moves the record. Landed too, if sent again it fails at the record and that is its own. */
inline transition(a_kind, a_att, a_index, a_value) {
    resent = 0;
    call(a_kind, a_att, a_index, a_value);
    if
    :: got == OK
    :: got == BAD_RECORD && resent ->
        if
#if HOLDS > 0
        :: atomic { incarnation == my_inc && CONTENT == my_rv - my_holds + 1 && record_by == life ->
            got = OK; my_rv = record - 1; my_holds = holds }  /* landed, and perhaps held since */
#else
        :: atomic { incarnation == my_inc && record == my_rv + 1 && record_by == life -> got = OK }
#endif
        :: atomic { else -> goto over }
        fi
    :: (got == BAD_RECORD && !resent) || got == BAD_INCARNATION || got == BAD_OWNER -> goto over
    :: got == BAD_WITNESS || got == BAD_OPERATION
    fi;
    if
    :: got == OK -> my_rv++
    :: else
    fi
}

/* What the live path reads as: as the journal has it, or as the plan leaves it. */
#define IS_BEFORE(path) (value[path] == 0 && before[AT(my_att, path)] == 0 || \
    value[path] != 0 && before[AT(my_att, path)] != 0 && version[path] == before_version[AT(my_att, path)])
#define IS_AFTER(path) ((before[AT(my_att, path)] == 0 || path == 0) -> value[path] == OF_ATTEMPT(my_att) : \
    value[path] == 0)

proctype Migrator(byte me) {
    byte command, life, token, my_inc, my_rv, my_state, my_base, my_epoch, my_att, my_frozen, i, got;
    bit resent, my_pending;
#ifdef ACLS
    byte seen, rounds;
#endif
#if HOLDS > 0
    byte my_holds;
#endif

end_idle:  /* P5: none stays here but where there is nothing to go on with */
    atomic {
        /* The record is read, and a command is given that fits it. The last migrator comes when nobody is at work, and
           whatever it then finds, one command after the other has to lead to rest. */
        if
        :: CAN_BEGIN && me != LAST && AT_REST(state) && !pending && attempts < ATTEMPTS && epoch < EPOCHS ->
            command = APPLY
        :: CAN_BEGIN && (state == PREPARING || state == OPEN && (me != LAST || !conflict) || pending) ->
            command = RESUME
        :: CAN_BEGIN && MIGRATING(state) -> command = ROLLBACK
        fi;
        if
        :: me == LAST ->
            life = LIVES + 1; lives = 0; last_commands++;
            assert(last_commands <= LAST_COMMANDS)  /* P5: nor does it go round in circles */
        :: else -> life = lives; lives--; at_work++
        fi;
        my_inc = incarnation
    };

    /* Take the scope: bump the token, then read the record. */
take:
    atomic {
        if
        :: incarnation == 0 -> goto over
        :: else -> token = owner
        fi
    };
    resent = 0;
    call(BUMP, 0, 0, 0);
    if
    :: got == OK
    :: got == BAD_INCARNATION -> goto over
    :: got == BAD_OWNER && !resent -> goto take
    :: got == BAD_OWNER && resent ->
        if
        :: atomic { incarnation == my_inc && owner == token + 1 && owner_by == life }
        :: atomic { else -> goto take }
        fi
    fi;
    atomic {
        token++;
        if
        :: incarnation != my_inc -> goto over
        :: else ->
            my_rv = record; my_state = state; my_base = base; my_epoch = epoch; my_att = attempt; my_frozen = frozen;
            my_pending = pending
#if HOLDS > 0
            ; my_holds = holds
#endif
        fi
    };
    if
    :: command == APPLY ->
        if
        :: !AT_REST(my_state) || my_pending || my_epoch >= EPOCHS -> goto over
        :: else
        fi
    :: my_state == PREPARING && command == RESUME -> goto drain
    :: my_state == PREPARING && command == ROLLBACK -> goto give_up
    :: my_state == OPEN && command == RESUME -> goto write
    :: my_state == OPEN && command == ROLLBACK -> goto back
    :: my_state == ROLLING_BACK && command != APPLY -> goto undo
    :: AT_REST(my_state) && my_pending && command == RESUME -> goto finish
    :: else -> goto over
    fi;

    /* The journal: every path is read, each at its own time. */
    atomic {
        if
        :: attempts == ATTEMPTS -> goto over
        :: else -> attempts++; my_att = attempts; before[AT(my_att, 0)] = value[0];
            before_version[AT(my_att, 0)] = version[0];
#ifdef ACLS
            aversion_before[my_att] = aversion; acl_before[my_att] = acl;
#endif
        fi
    };
    atomic { before[AT(my_att, 1)] = value[1]; before_version[AT(my_att, 1)] = version[1] };
    resent = 0;
    call(JOURNAL, my_att, 0, 0);
    if
    :: got == OK || (got == BAD_WITNESS && resent)
    :: else -> goto over
    fi;
    transition(PREPARE, my_att, 0, my_state);
    my_base = my_state;

drain:
#ifndef NO_DRAIN
    if
    :: atomic { lease == NO_LEASE }
    :: atomic { lease == HELD -> goto give_up }  /* past --drain-timeout; until then it waits */
    :: IS_LEASE_OVER ->
        resent = 0;
        call(SWEEP, 0, 0, 0);
        if
        :: got == OK
        :: else -> goto over
        fi
    fi;
#endif
    if
    :: atomic { incarnation == my_inc && IS_BEFORE(0) }
    :: atomic { else -> goto give_up }
    fi;
    if
    :: atomic { incarnation == my_inc && IS_BEFORE(1) }
    :: atomic { else -> goto give_up }
    fi;
    if
    :: true ->
        transition(OPEN_EPOCH, my_att, 0, my_base);
        if
        :: got == OK
        :: else -> goto give_up
        fi
#ifdef SHOT
    :: true ->
        transition(SINGLE_SHOT, my_att, 0, my_base);
        if
        :: got == OK -> goto over
        :: else -> goto give_up
        fi
#endif
    fi;

write:
#ifdef ACLS
    if
    :: atomic { cursor[my_att] > 0 -> goto batches }
    :: atomic { else }
    fi;
    resent = 0;
    call(SET_ACL, my_att, aversion_before[my_att], TIGHT_ACL(my_att));
    if
    :: got == OK
    :: atomic { got != OK && acl == TIGHT_ACL(my_att) }  /* done before */
    :: atomic { got != OK && acl != TIGHT_ACL(my_att) -> goto stop }
    fi;
batches:
#endif
    atomic {
        if
        :: journal[my_att] != my_inc -> goto over
        :: else -> i = cursor[my_att]
        fi
    };
    do
    :: i < 2 ->
        resent = 0;
        call(BATCH, my_att, i, 0);
        leave_next(BATCH, my_att, i);
        if
        :: got == OK || (got == BAD_WITNESS && resent) -> i++
        :: got == BAD_OPERATION -> goto stop
        :: else -> goto over
        fi
    :: else -> break
    od;
#ifndef NO_VERIFY
    if
    :: atomic { IS_AFTER(0) -> found_by[0] = (token == owner -> life : found_by[0]) }
    :: atomic { else -> goto stop }
    fi;
    if
    :: atomic { IS_AFTER(1) -> found_by[1] = (token == owner -> life : found_by[1]) }
    :: atomic { else -> goto stop }
    fi;
#endif
    transition(COMMIT, my_att, 0, my_base);
    if
    :: got == BAD_OPERATION -> goto stop
    :: got == BAD_WITNESS -> goto over
    :: else
    fi;
#ifdef ACLS
    my_epoch++;

finish:
    atomic { my_att = acl_attempt };  /* the record's `pending` names it */
    if
    :: my_att == 0 -> goto over
    :: else
    fi;
    resent = 0;
    call(SET_ACL, my_att, aversion_before[my_att] + 1, NEW_ACL(my_att));
    transition(FINISHED, my_att, 0, 0);
    goto over;
#else
    goto over;
finish:
    goto over;
#endif

stop:  /* a conflict is recorded, and the operator decides */
    transition(CONFLICT, my_att, 0, 0);
    goto over;

give_up:
    transition(ABORT, my_att, 0, my_base);
    goto over;

back:
    atomic {
        if
        :: journal[my_att] != my_inc -> goto over
        :: else -> my_frozen = cursor[my_att]
        fi
    };
    transition(BEGIN_ROLLBACK, my_att, my_frozen, my_base);
    if
    :: got == OK
    :: else -> goto over
    fi;

undo:
    atomic {
        if
        :: journal[my_att] != my_inc -> goto over
        :: else -> i = rcursor[my_att]
        fi
    };
    do
    :: i < my_frozen ->
        resent = 0;
        call(UNDO, my_att, i, 0);
        leave_next(UNDO, my_att, i);
        if
#ifndef NO_PASSING_OVER
        :: got == BAD_OPERATION -> call(UNDO, my_att, i, 1)  /* passed over, and recorded in the same multi */
#endif
        :: else
        fi;
        if
        :: got == OK || (got == BAD_WITNESS && resent) -> i++
        :: else -> goto over
        fi
    :: else -> break
    od;
#ifdef ACLS
    rounds = 0;
    do
    :: rounds < 2 ->
        rounds++;
        if
#ifndef NO_FENCE
        :: atomic { aversion == aversion_before[my_att] -> seen = aversion }
        :: atomic { aversion == aversion_before[my_att] + 1 && acl == TIGHT_ACL(my_att) -> seen = aversion }
#else
        :: atomic { aversion == aversion_before[my_att] -> break }
        :: atomic { aversion == aversion_before[my_att] + 1 && acl == TIGHT_ACL(my_att) -> seen = aversion }
#endif
        :: atomic { else -> break }
        fi;
        resent = 0;
        call(SET_ACL, my_att, seen, acl_before[my_att]);
        seen = 0;
        if
        :: got == OK -> break
        :: else
        fi
    :: else -> break
    od;
    rounds = 0;
#endif
    transition(END_ROLLBACK, my_att, 0, my_base);

over:
    atomic {
        if
        :: my_att != 0 && journal[my_att] == 0 -> forget(my_att)  /* known to nobody */
        :: else
        fi;
        command = 0; life = 0; token = 0; my_inc = 0; my_rv = 0; my_state = 0; my_base = 0; my_epoch = 0; my_att = 0;
        my_frozen = 0; i = 0; got = 0; resent = 0; my_pending = 0;
#ifdef ACLS
        seen = 0; rounds = 0;
#endif
#if HOLDS > 0
        my_holds = 0;
#endif
        if
        :: me != LAST -> at_work--
        :: else
        fi;
        goto end_idle
    }
}

/* -- readers ------------------------------------------------------------------------------------------------------- */

#define ACTOR 1

/* Others may write between two reads of a view; so a value of theirs may be shown where the image has changed since
   the view began. */
#define IS_OF(path, which) (shown[path] == which[path] || image[path] != began[path] && IS_FOREIGN(shown[path]))
#define IS_WHOLE (IS_OF(0, image) && IS_OF(1, image) || IS_OF(0, began) && IS_OF(1, began))
#define IS_EITHER(path) (IS_OF(path, image) || IS_OF(path, began))

inline forget_view() {
    my_inc = 0; my_rv = 0; my_state = 0; my_epoch = 0; my_att = 0; got = 0;
    shown[0] = 0; shown[1] = 0; began[0] = 0; began[1] = 0
}

proctype Reader(byte me) {
    byte views = VIEWS, my_inc, my_rv, my_state, my_epoch, my_att, lease_known, got;
    byte kept_inc, kept_epoch, kept_att;
    byte shown[2];
    byte began[2];  /* a ghost: the image when the view began; others may write between two reads of a view */

view:
    atomic {
        if
        :: views == 0 ->
            lease_known = 0; kept_inc = 0; kept_epoch = 0; kept_att = 0;
            goto done
        :: else
        fi;
        if
        :: incarnation == 0 || state == EMPTY -> views--; goto view  /* NotReady */
        :: else
        fi;
        my_inc = incarnation; my_rv = record; my_state = state; my_epoch = epoch; my_att = attempt;
        began[0] = image[0]; began[1] = image[1]
    };
    if
    :: IS_OVERLAID ->
        if
        :: kept_inc == my_inc && kept_epoch == my_epoch && IS_KEPT_ATTEMPT
        :: atomic { else ->
            if
            :: journal[my_att] != my_inc -> forget_view(); goto view  /* missing: read the record again */
            :: else -> kept_inc = my_inc; kept_epoch = my_epoch; kept_att = my_att
            fi
           }
        fi;
        atomic { shown[0] = before[AT(kept_att, 0)]; shown[1] = before[AT(kept_att, 1)] }
    :: !IS_OVERLAID ->
        atomic { shown[0] = value[0] };
        atomic { shown[1] = value[1] }
    fi;
    atomic {
        if
        :: HAS_MOVED -> forget_view(); goto view
        :: else ->
            /* P1: all of one image. Where others have written meanwhile, each path is of the one or the other. */
            assert(IS_WHOLE || IS_FOREIGN(image[0]) && IS_EITHER(0) && IS_EITHER(1) ||
                IS_FOREIGN(image[1]) && IS_EITHER(0) && IS_EITHER(1));
#ifndef NO_SECOND_READ
            assert(my_epoch == epoch && my_inc == incarnation);              /* and that the committed one */
#endif
            assert(state != EMPTY);
            views--; shown[0] = 0; shown[1] = 0; began[0] = 0; began[1] = 0;
            if
            :: me != ACTOR || my_state != STABLE || IS_HELD -> forget_view(); goto view
            :: else -> my_state = 0; my_att = 0
            fi
        fi
    };

    /* Leave to act: one multi. Without its answer nothing is admitted, and its lease is released. */
    if
    :: atomic {
        q.kind = ADMIT; q.inc = my_inc; q.rv = my_rv; q.index = lease_known; q.epoch = my_epoch;
        server!ANSWERED; answer?_; got = reply; reply = 0;
        if
        :: got == OK -> acting = 1; got = 0
        :: got == BAD_WITNESS -> lease_known = 0; forget_view(); goto view  /* swept away: another name, another try */
        :: else -> forget_view(); goto view
        fi
       }
    :: atomic {
        losses > 0 && HAS_ROOM ->
        losses--;
        q.kind = ADMIT; q.inc = my_inc; q.rv = my_rv; q.index = lease_known; q.epoch = my_epoch;
        server!LEFT_IN_NET
       }
    fi;
    if
    :: atomic { views = 0; forget_view(); goto view }  /* it crashes in its action; what it has begun may go on for its time */
    :: atomic { acting = 0 }
    fi;
    atomic {
        q.kind = RELEASE; q.inc = my_inc;
        server!ANSWERED; answer?_; got = reply; reply = 0;
        if
        :: got == OK -> lease_known = lease_version
        :: else -> lease_known = 0
        fi;
        forget_view();
        goto view
    };
done:
    skip
}

/* The holder's deadline is counted from before it sent, the migrator's from when it saw, with a margin: so the action
   is over before the lease is. */
proctype Time() {
end:
    do
    :: atomic { lease == HELD -> acting = 0; lease = OVER }
    od
}

/* -- others -------------------------------------------------------------------------------------------------------- */

proctype Foreign() {
    byte left = FOREIGN, path;

    do
    :: left == 0 -> break
    :: atomic { left > 0 ->
        if
        :: path = 0
        :: path = 1
        fi;
        if
        :: value[path] == 0 -> version[path] = 0
        :: else -> version[path]++
        fi;
        value[path] = 20 + left;
        if
        :: state != OPEN && state != ROLLING_BACK -> image[path] = value[path]
        :: else
        fi;
        left--; path = 0
       }
    od
}

inline admin(a_kind) {
    q.kind = a_kind; server!ANSWERED; answer?_; got = reply; reply = 0
}

proctype Admin() {
    byte left = DROPS, got;

    do
    :: left == 0 -> break
    :: left > 0 -> break
    :: atomic { left > 0 && !acting -> left--; admin(DROP); got = 0 };
        atomic { admin(INIT); got = 0 }
    od
}

#if HOLDS > 0
proctype Holder() {
    byte left = HOLDS;

    do
    :: left == 0 -> break
    :: left > 0 -> break
    :: atomic { left > 0 && incarnation != 0 -> record++; holds++; held = !held; left-- }
    od
}
#endif

init {
    byte got;

    atomic {
#ifndef EMPTY_FIRST
        value[0] = FIRST_VALUE;
#endif
        run Server();
        admin(INIT);
        got = 0;
        run Time();
#if DROPS > 0
        run Admin();
#endif
#if FOREIGN > 0
        run Foreign();
#endif
#if HOLDS > 0
        run Holder();
#endif
#if ACTORS > 0
        run Reader(ACTOR);
#endif
#if VIEWERS > 0
        run Reader(0);
#endif
        run Migrator(0); run Migrator(1); run Migrator(LAST)
    }
}
