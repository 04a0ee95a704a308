-- The engine of one tenant: a schema with the heads of its logs, their batches by day, and the functions that are the
-- only way to them. `audit-async engine init` runs this as the schema's owner, a role that can't log in, in one
-- transaction and as often as one likes: what is there is kept. Words between @ are put in, quoted, by
-- postgres_schema.py. What a function refuses has the SQLSTATE AU001 (a person has to act), AU002 (no room for this
-- host) or AU003 (a batch that is too large).

CREATE TABLE IF NOT EXISTS @schema@.about (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    schema_version integer NOT NULL,
    tenant text NOT NULL,
    made_at timestamptz NOT NULL DEFAULT now()
);

-- Which role writes as which host, and how much of the engine one host may take.
CREATE TABLE IF NOT EXISTS @schema@.writers (
    role name PRIMARY KEY,
    host text NOT NULL UNIQUE,
    max_bytes_per_day bigint NOT NULL CHECK (max_bytes_per_day > 0),
    max_logs integer NOT NULL CHECK (max_logs > 0),
    granted_at timestamptz NOT NULL DEFAULT now()
);

-- The newest record of each log; never trimmed, for a log without a head could be begun again. No column that changes
-- is indexed and a page keeps room, so that an append changes no index (HOT).
CREATE TABLE IF NOT EXISTS @schema@.heads (
    log_key bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    log_id text NOT NULL UNIQUE,
    service text NOT NULL,
    host text NOT NULL,
    instance text NOT NULL,
    bound_to name NOT NULL,
    seq bigint NOT NULL CHECK (seq >= -1),
    hash text NOT NULL CHECK (hash ~ '^[0-9a-f]{64}$'),
    day date NOT NULL,
    day_bytes bigint NOT NULL,
    begun_at timestamptz NOT NULL DEFAULT now(),
    appended_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);
-- When the log's host last showed itself with nothing new (schema version 3).
ALTER TABLE @schema@.heads ADD COLUMN IF NOT EXISTS heard_at timestamptz NOT NULL DEFAULT now();
CREATE INDEX IF NOT EXISTS heads_bound_to ON @schema@.heads (bound_to);

-- What the collector has confirmed, as it signed it. Not tied to a head: it counts most if the engine has lost that.
CREATE TABLE IF NOT EXISTS @schema@.confirmations (
    log_id text PRIMARY KEY,
    service text NOT NULL,
    host text NOT NULL,
    instance text NOT NULL,
    confirmation bytea NOT NULL CHECK (octet_length(confirmation) <= 65536),
    collector name NOT NULL,
    confirmed_at timestamptz NOT NULL DEFAULT now()
);

-- The log.json of each log as its host has it, stored before the first batch.
CREATE TABLE IF NOT EXISTS @schema@.descriptions (
    log_id text PRIMARY KEY,
    service text NOT NULL,
    host text NOT NULL,
    instance text NOT NULL,
    bound_to name NOT NULL,
    document bytea NOT NULL CHECK (octet_length(document) <= @max_description_bytes@),
    described_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS descriptions_bound_to ON @schema@.descriptions (bound_to);

-- The days that have a partition, or had one until it was trimmed: a partition that went any other way is missed.
CREATE TABLE IF NOT EXISTS @schema@.days (
    day date PRIMARY KEY,
    made_at timestamptz NOT NULL DEFAULT now(),
    trimmed_at timestamptz,
    lost_at timestamptz
);

CREATE TABLE IF NOT EXISTS @schema@.batches (
    received_day date NOT NULL,
    log_key bigint NOT NULL,
    first_seq bigint NOT NULL,
    last_seq bigint NOT NULL,
    prev_hash text NOT NULL,
    last_hash text NOT NULL,
    lines bytea NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (log_key, last_seq, received_day)
) PARTITION BY RANGE (received_day);

CREATE OR REPLACE FUNCTION @schema@.schema_version(OUT version integer, OUT tenant text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
    SELECT about.schema_version, about.tenant FROM @schema@.about
$function$;

CREATE OR REPLACE FUNCTION @schema@.make_day(wanted date) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    partition constant text := 'batches_' || to_char(wanted, 'YYYYMMDD');
BEGIN
    IF to_regclass(format('%I.%I', @schema_text@, partition)) IS NOT NULL THEN
        RETURN;
    END IF;
    -- Of several that need a new day at once, one makes it.
    PERFORM pg_advisory_xact_lock(hashtext(@schema_text@ || '.make_day'));
    IF to_regclass(format('%I.%I', @schema_text@, partition)) IS NOT NULL THEN
        RETURN;
    END IF;
    -- Attached, and not made as a partition: that would wait for every reader and writer of the table.
    EXECUTE format(
        'CREATE TABLE %1$I.%2$I (LIKE %1$I.batches INCLUDING DEFAULTS INCLUDING STORAGE INCLUDING COMPRESSION)',
        @schema_text@, partition
    );
    EXECUTE format(
        'ALTER TABLE %1$I.batches ATTACH PARTITION %1$I.%2$I FOR VALUES FROM (%3$L) TO (%4$L)',
        @schema_text@, partition, wanted, wanted + 1
    );
    -- A day that had a partition already lost it, unless it was trimmed; hosts must not wait for somebody to look.
    INSERT INTO @schema@.days AS d (day) VALUES (wanted) ON CONFLICT (day) DO UPDATE SET
        trimmed_at = NULL,
        lost_at = CASE WHEN d.trimmed_at IS NULL THEN now() ELSE d.lost_at END;
END
$function$;

-- The writer that this session is, if it may store something of this log; everything else is refused by name.
CREATE OR REPLACE FUNCTION @schema@.writer_of(of_service text, of_host text, of_instance text, of_log_id text)
RETURNS @schema@.writers
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    writer @schema@.writers;
BEGIN
    -- What is not on disk when the commit returns must not be taken for stored.
    IF current_setting('synchronous_commit') NOT IN ('on', 'remote_apply') THEN
        RAISE EXCEPTION 'synchronous_commit is %', current_setting('synchronous_commit')
            USING ERRCODE = 'AU001', HINT = 'Set it to on or remote_apply; a pooler may have changed it.';
    END IF;
    IF current_setting('fsync') <> 'on' OR current_setting('full_page_writes') <> 'on' THEN
        RAISE EXCEPTION 'fsync or full_page_writes is off' USING ERRCODE = 'AU001', HINT = 'Set both to on.';
    END IF;
    SELECT w.* INTO writer FROM @schema@.writers w WHERE w.role = session_user;
    IF NOT FOUND OR writer.host <> of_host THEN
        RAISE EXCEPTION 'role "%" has no right to write as host "%"', session_user, of_host
            USING ERRCODE = 'AU001', HINT = 'Grant it with "audit-async engine grant".';
    END IF;
    -- The names become paths at the collector.
    IF concat(of_service, '/', of_instance, '/', of_log_id) !~ '^[^/\u0001-\u001f\u007f-\u009f]+(/[^/\u0001-\u001f\u007f-\u009f]+){2}$'
        OR greatest(length(of_service), length(of_instance), length(of_log_id)) > 128
    THEN
        RAISE EXCEPTION 'a name of the log is empty, too long, or has a slash or a control character'
            USING ERRCODE = 'AU001';
    END IF;
    RETURN writer;
END
$function$;

-- Append a batch if the log's head is still what the host believes; say in any case what it is now. One round trip.
CREATE OR REPLACE FUNCTION @schema@.append(
    of_service text, of_host text, of_instance text, of_log_id text,
    after_seq bigint, after_hash text,
    new_first_seq bigint, new_last_seq bigint, new_prev_hash text, new_last_hash text,
    new_lines bytea, resume bytea,
    OUT appended boolean, OUT at_seq bigint, OUT at_hash text
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    writer @schema@.writers;
    log @schema@.heads;
    today constant date := (now() AT TIME ZONE 'UTC')::date;
    size constant bigint := octet_length(new_lines);
    beginning constant bytea := convert_to(format('{"seq":%s,', new_first_seq), 'UTF8');
    used numeric;
BEGIN
    writer := @schema@.writer_of(of_service, of_host, of_instance, of_log_id);

    -- The declared link, and that the first and the last line are the declared ones. The collector checks every byte.
    IF new_first_seq <> after_seq + 1 OR new_prev_hash <> after_hash OR new_last_seq < new_first_seq
        OR after_seq < -1 OR (after_seq = -1) <> (after_hash = repeat('0', 64))
        OR after_hash !~ '^[0-9a-f]{64}$' OR new_last_hash !~ '^[0-9a-f]{64}$'
    THEN
        RAISE EXCEPTION 'the batch does not follow the head that it names' USING ERRCODE = 'AU001';
    END IF;
    IF size > @max_batch_bytes@ THEN
        RAISE EXCEPTION 'the batch has % bytes, at most % are taken', size, @max_batch_bytes@ USING ERRCODE = 'AU003';
    END IF;
    IF size <= 67 OR substring(new_lines FROM 1 FOR octet_length(beginning)) <> beginning
        OR substring(new_lines FROM (size - 66)::integer) <> convert_to(new_last_hash || E'"}\n', 'UTF8')
    THEN
        RAISE EXCEPTION 'the lines are not those that the batch declares' USING ERRCODE = 'AU001';
    END IF;

    SELECT h.* INTO log FROM @schema@.heads h WHERE h.log_id = of_log_id FOR UPDATE;
    IF NOT FOUND THEN
        IF after_seq >= 0 AND resume IS NULL THEN
            appended := false;
            at_seq := -1;
            at_hash := repeat('0', 64);
            PERFORM pg_logical_emit_message(true, 'audit-async', '');  -- as in head()
            RETURN;
        END IF;
        -- Whoever may begin a log in its middle may hide its beginning: only where the collector has confirmed it.
        IF after_seq >= 0 AND NOT EXISTS (
            SELECT FROM @schema@.confirmations c
            WHERE c.log_id = of_log_id AND c.service = of_service AND c.host = of_host AND c.instance = of_instance
                AND c.confirmation = resume AND position(convert_to(after_hash, 'UTF8') IN resume) > 0
        ) THEN
            RAISE EXCEPTION 'the engine does not have the log, and the collector has not confirmed record %', after_seq
                USING ERRCODE = 'AU001', HINT = 'Let the collector confirm the log again, or ship it from record 0.';
        END IF;
        IF (SELECT count(*) FROM @schema@.heads h WHERE h.bound_to = session_user) >= writer.max_logs THEN
            RAISE EXCEPTION 'host "%" has % logs, as many as it may have', of_host, writer.max_logs
                USING ERRCODE = 'AU002', HINT = 'If they are its own, grant it again with a higher --max-logs.';
        END IF;
        INSERT INTO @schema@.heads (log_id, service, host, instance, bound_to, seq, hash, day, day_bytes)
            VALUES (of_log_id, of_service, of_host, of_instance, session_user, after_seq, after_hash, today, 0)
            ON CONFLICT (log_id) DO NOTHING;
        SELECT h.* INTO STRICT log FROM @schema@.heads h WHERE h.log_id = of_log_id FOR UPDATE;
    END IF;
    IF log.bound_to <> session_user OR log.host <> of_host
        OR log.service <> of_service OR log.instance <> of_instance
    THEN
        RAISE EXCEPTION 'this log_id belongs to another log'
            USING ERRCODE = 'AU001', HINT = 'Was the machine cloned or renamed? The copy needs a new log.';
    END IF;
    IF log.seq <> after_seq OR log.hash <> after_hash THEN
        appended := false;
        at_seq := log.seq;
        at_hash := log.hash;
        PERFORM pg_logical_emit_message(true, 'audit-async', '');  -- as in head()
        RETURN;
    END IF;

    SELECT coalesce(sum(h.day_bytes), 0) INTO used
        FROM @schema@.heads h WHERE h.bound_to = session_user AND h.day = today;
    IF used + size > writer.max_bytes_per_day THEN
        RAISE EXCEPTION 'host "%" has sent % bytes today, and may send %', of_host, used, writer.max_bytes_per_day
            USING ERRCODE = 'AU002', HINT = 'If they are its own, grant it again with a higher --max-bytes-per-day.';
    END IF;
    PERFORM @schema@.make_day(today);
    INSERT INTO @schema@.batches (received_day, log_key, first_seq, last_seq, prev_hash, last_hash, lines)
        VALUES (today, log.log_key, new_first_seq, new_last_seq, new_prev_hash, new_last_hash, new_lines);
    UPDATE @schema@.heads h SET
        seq = new_last_seq,
        hash = new_last_hash,
        day = today,
        day_bytes = size + CASE WHEN h.day = today THEN h.day_bytes ELSE 0 END,
        appended_at = now()
        WHERE h.log_key = log.log_key;
    appended := true;
    at_seq := new_last_seq;
    at_hash := new_last_hash;
END
$function$;

-- Whether the role of this session may look at a log of this host: its own, or any if it is a collector.
CREATE OR REPLACE FUNCTION @schema@.may_look(of_host text, bound_to name) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
    SELECT pg_has_role(session_user, @collectors_text@, 'MEMBER') OR (
        coalesce(bound_to = session_user, true)
        AND EXISTS (SELECT FROM @schema@.writers w WHERE w.role = session_user AND w.host = of_host)
    )
$function$;

-- The head of a log, -1 if the engine does not have it. It waits for the standbys like an append: after a crash or a
-- cancelled wait a head may be visible that no standby has, and must not be taken for stored before they have it.
CREATE OR REPLACE FUNCTION @schema@.head(
    of_service text, of_host text, of_instance text, of_log_id text, OUT at_seq bigint, OUT at_hash text
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    log @schema@.heads;
BEGIN
    SELECT h.* INTO log FROM @schema@.heads h
        WHERE h.log_id = of_log_id AND h.service = of_service AND h.host = of_host AND h.instance = of_instance;
    IF NOT @schema@.may_look(of_host, log.bound_to) THEN
        RAISE EXCEPTION 'role "%" has no right to logs of host "%"', session_user, of_host USING ERRCODE = 'AU001';
    END IF;
    PERFORM pg_logical_emit_message(true, 'audit-async', '');
    at_seq := coalesce(log.seq, -1);
    at_hash := coalesce(log.hash, repeat('0', 64));
END
$function$;

-- The batches of a log that end after a record, the oldest first, at most so many.
CREATE OR REPLACE FUNCTION @schema@.read_after(
    of_service text, of_host text, of_instance text, of_log_id text, after_seq bigint, max_batches integer
) RETURNS TABLE (first_seq bigint, last_seq bigint, prev_hash text, last_hash text, lines bytea)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
#variable_conflict use_column
DECLARE
    log @schema@.heads;
BEGIN
    SELECT h.* INTO log FROM @schema@.heads h
        WHERE h.log_id = of_log_id AND h.service = of_service AND h.host = of_host AND h.instance = of_instance;
    IF NOT @schema@.may_look(of_host, log.bound_to) THEN
        RAISE EXCEPTION 'role "%" has no right to logs of host "%"', session_user, of_host USING ERRCODE = 'AU001';
    END IF;
    RETURN QUERY
        SELECT b.first_seq, b.last_seq, b.prev_hash, b.last_hash, b.lines FROM @schema@.batches b
        WHERE b.log_key = log.log_key AND b.last_seq > after_seq ORDER BY b.last_seq LIMIT max_batches;
END
$function$;

-- A host shows that it is there, with nothing new; false if the engine does not have the log.
CREATE OR REPLACE FUNCTION @schema@.repeat_head(
    of_service text, of_host text, of_instance text, of_log_id text, OUT known boolean
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
BEGIN
    PERFORM @schema@.writer_of(of_service, of_host, of_instance, of_log_id);
    UPDATE @schema@.heads h SET heard_at = now()
        WHERE h.log_id = of_log_id AND h.service = of_service AND h.host = of_host AND h.instance = of_instance
            AND h.bound_to = session_user;
    known := FOUND;
END
$function$;

-- When a log's host last appended or showed itself; NULL if the engine does not have the log.
CREATE OR REPLACE FUNCTION @schema@.heard_at(of_service text, of_host text, of_instance text, of_log_id text)
RETURNS timestamptz
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
    SELECT greatest(h.appended_at, h.heard_at) FROM @schema@.heads h
        WHERE h.log_id = of_log_id AND h.service = of_service AND h.host = of_host AND h.instance = of_instance
$function$;

CREATE OR REPLACE FUNCTION @schema@.logs()
RETURNS TABLE (service text, host text, instance text, log_id text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
    SELECT h.service, h.host, h.instance, h.log_id FROM @schema@.heads h ORDER BY h.log_key
$function$;

CREATE OR REPLACE FUNCTION @schema@.confirm(
    of_service text, of_host text, of_instance text, of_log_id text, new_confirmation bytea
) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
    INSERT INTO @schema@.confirmations AS c (log_id, service, host, instance, confirmation, collector)
        VALUES (of_log_id, of_service, of_host, of_instance, new_confirmation, session_user)
        ON CONFLICT (log_id) DO UPDATE SET
            service = excluded.service, host = excluded.host, instance = excluded.instance,
            confirmation = excluded.confirmation, collector = excluded.collector, confirmed_at = now()
$function$;

CREATE OR REPLACE FUNCTION @schema@.confirmation(of_service text, of_host text, of_instance text, of_log_id text)
RETURNS bytea
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
BEGIN
    IF NOT @schema@.may_look(of_host, NULL) THEN
        RAISE EXCEPTION 'role "%" has no right to logs of host "%"', session_user, of_host USING ERRCODE = 'AU001';
    END IF;
    RETURN (
        SELECT c.confirmation FROM @schema@.confirmations c
        WHERE c.log_id = of_log_id AND c.service = of_service AND c.host = of_host AND c.instance = of_instance
    );
END
$function$;

-- Store the log.json of a log, once.
CREATE OR REPLACE FUNCTION @schema@.describe(
    of_service text, of_host text, of_instance text, of_log_id text, new_document bytea
) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    writer constant @schema@.writers := @schema@.writer_of(of_service, of_host, of_instance, of_log_id);
BEGIN
    IF octet_length(new_document) > @max_description_bytes@ THEN
        RAISE EXCEPTION 'log.json has % bytes, at most % are taken', octet_length(new_document), @max_description_bytes@
            USING ERRCODE = 'AU001';
    END IF;
    IF EXISTS (SELECT FROM @schema@.heads h WHERE h.log_id = of_log_id AND (h.bound_to <> session_user
        OR h.host <> of_host OR h.service <> of_service OR h.instance <> of_instance))
    THEN
        RAISE EXCEPTION 'this log_id belongs to another log'
            USING ERRCODE = 'AU001', HINT = 'Was the machine cloned or renamed? The copy needs a new log.';
    END IF;
    IF NOT EXISTS (SELECT FROM @schema@.descriptions d WHERE d.log_id = of_log_id)
        AND (SELECT count(*) FROM @schema@.descriptions d WHERE d.bound_to = session_user) >= writer.max_logs
    THEN
        RAISE EXCEPTION 'host "%" has % logs, as many as it may have', of_host, writer.max_logs
            USING ERRCODE = 'AU002', HINT = 'If they are its own, grant it again with a higher --max-logs.';
    END IF;
    INSERT INTO @schema@.descriptions (log_id, service, host, instance, bound_to, document)
        VALUES (of_log_id, of_service, of_host, of_instance, session_user, new_document)
        ON CONFLICT (log_id) DO NOTHING;
    IF NOT EXISTS (
        SELECT FROM @schema@.descriptions d WHERE d.log_id = of_log_id AND d.bound_to = session_user
            AND d.host = of_host AND d.service = of_service AND d.instance = of_instance AND d.document = new_document
    ) THEN
        RAISE EXCEPTION 'this log has another log.json' USING ERRCODE = 'AU001',
            HINT = 'Was the machine cloned, or the file changed? A log that begins again needs a new log_id.';
    END IF;
    PERFORM pg_logical_emit_message(true, 'audit-async', '');  -- as in head()
END
$function$;

CREATE OR REPLACE FUNCTION @schema@.description(of_service text, of_host text, of_instance text, of_log_id text)
RETURNS bytea
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    described @schema@.descriptions;
BEGIN
    SELECT d.* INTO described FROM @schema@.descriptions d
        WHERE d.log_id = of_log_id AND d.service = of_service AND d.host = of_host AND d.instance = of_instance;
    IF NOT @schema@.may_look(of_host, described.bound_to) THEN
        RAISE EXCEPTION 'role "%" has no right to logs of host "%"', session_user, of_host USING ERRCODE = 'AU001';
    END IF;
    RETURN described.document;
END
$function$;

REVOKE ALL ON SCHEMA @schema@ FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA @schema@ FROM PUBLIC;
REVOKE ALL ON ALL ROUTINES IN SCHEMA @schema@ FROM PUBLIC;
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON ROUTINES FROM PUBLIC;
GRANT USAGE ON SCHEMA @schema@ TO @hosts@, @collectors@;
GRANT EXECUTE ON FUNCTION
    @schema@.schema_version(),
    @schema@.head(text, text, text, text),
    @schema@.read_after(text, text, text, text, bigint, integer),
    @schema@.confirmation(text, text, text, text),
    @schema@.description(text, text, text, text)
    TO @hosts@, @collectors@;
GRANT EXECUTE ON FUNCTION
    @schema@.append(text, text, text, text, bigint, text, bigint, bigint, text, text, bytea, bytea),
    @schema@.describe(text, text, text, text, bytea),
    @schema@.repeat_head(text, text, text, text)
    TO @hosts@;
GRANT EXECUTE ON FUNCTION
    @schema@.logs(),
    @schema@.heard_at(text, text, text, text),
    @schema@.confirm(text, text, text, text, bytea)
    TO @collectors@;

INSERT INTO @schema@.about (schema_version, tenant) VALUES (@version@, @tenant_text@)
    ON CONFLICT (one) DO UPDATE SET schema_version = excluded.schema_version;
