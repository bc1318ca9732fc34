"""The SQL that users rely on: views of the projection, in the order they are created.

A view with a `snapshot` column speaks of every snapshot: filter by it. `decisions` is the exception: a decision is
listed once, under the snapshot whose step took it.
"""

VIEWS = (
    """CREATE VIEW documents AS
    SELECT s.snapshot, d.id, d.h64, d.content, d.source, d.source_id, d.url, d.host,
           coalesce(p.domain, d.domain) AS domain, d.n_chars, d.n_bytes, t.n_tokens, s.shard, d.row
    FROM shard_rows s
    JOIN documents_parquet d ON d.file = s.documents
    LEFT JOIN tokens_parquet t ON t.file = s.tokens AND t.row = d.row
    LEFT JOIN domain_parquet p ON p.file = s.domain AND p.row = d.row
    WHERE s.live IS NULL
       OR EXISTS (SELECT 1 FROM decisions_parquet k WHERE k.file = s.live AND k.row = d.row AND k.kept)""",
    "CREATE VIEW texts AS SELECT id, text FROM documents_parquet",
    """CREATE VIEW decisions AS
    SELECT l.snapshot, k.id, k.kept, k.rule, k.reason, k.kept_id, k.similarity, t.n_tokens, d.source, l.step
    FROM layer_rows l
    JOIN decisions_parquet k ON k.file = l.file
    JOIN documents_parquet d ON d.file = l.documents AND d.row = k.row
    LEFT JOIN tokens_parquet t ON t.file = l.tokens AND t.row = k.row""",
    """CREATE VIEW cells AS
    SELECT f.snapshot, c.cell, c.id, c."window", c.start, c.n_tokens, c.similarity
    FROM file_rows f JOIN cells_parquet c ON c.file = f.file WHERE f.tbl = 'cells'""",
    """CREATE VIEW draws AS
    SELECT f.snapshot, c.id, c."window", c.cell
    FROM file_rows f JOIN draws_parquet c ON c.file = f.file WHERE f.tbl = 'draws'""",
    """CREATE VIEW statistics AS
    SELECT f.snapshot, q.* EXCLUDE (file, row)
    FROM file_rows f JOIN statistics_parquet q ON q.file = f.file WHERE f.tbl = 'statistics'""",
    """CREATE VIEW edges AS
    SELECT f.snapshot, e.left_id, e.right_id, e.similarity
    FROM file_rows f JOIN edges_parquet e ON e.file = f.file WHERE f.tbl = 'edges'""",
    """CREATE VIEW matches AS
    SELECT f.snapshot, m.id, l.input AS evaluation, m.ngrams, m.passage
    FROM file_rows f JOIN matches_parquet m ON m.file = f.file
    JOIN lineage_rows l ON l.snapshot = f.snapshot AND l.position = m.evaluation + 1 AND l.step = 'decontaminate'
    WHERE f.tbl = 'matches'""",
    """CREATE VIEW quarantine AS
    SELECT f.snapshot, q.path, q.position, q.reason, q.excerpt
    FROM file_rows f JOIN quarantine_parquet q ON q.file = f.file WHERE f.tbl = 'quarantine'""",
    """CREATE VIEW weights AS
    SELECT f.snapshot, w.* EXCLUDE (file)
    FROM file_rows f JOIN weights_parquet w ON w.file = f.file WHERE f.tbl = 'weights'""",
    """CREATE VIEW scores AS
    SELECT f.snapshot, w.* EXCLUDE (file)
    FROM file_rows f JOIN scores_parquet w ON w.file = f.file WHERE f.tbl = 'scores'""",
    """CREATE VIEW evaluation_parts AS
    SELECT f.snapshot, w.model, w.part, w."group" AS name, w.* EXCLUDE (file, model, part, "group")
    FROM file_rows f JOIN parts_parquet w ON w.file = f.file WHERE f.tbl = 'parts'""",
    """CREATE VIEW snapshots AS
    SELECT s.snapshot, s.name, s.version, s.kind, s.id, s.step, s.shards, s.rows, s.bytes, r.started, r.seconds,
           s.layers, s.summary, s.run, s.live
    FROM snapshot_rows s LEFT JOIN run_rows r ON r.run = s.run""",
    "CREATE VIEW runs AS SELECT run, step, parameters, code, started, seconds FROM run_rows",
    "CREATE VIEW stages AS SELECT * FROM stage_rows",
    "CREATE VIEW lineage AS SELECT * FROM lineage_rows",
    """CREATE VIEW mixtures AS
    SELECT snapshot, (summary->>'$.method') AS method, (summary->>'$.cells')::INTEGER AS cells,
           (summary->>'$.tokens')::BIGINT AS tokens, (summary->>'$.alpha')::DOUBLE AS alpha,
           (summary->>'$.effective_sample_size')::DOUBLE AS effective_sample_size,
           (summary->>'$.coverage')::DOUBLE AS coverage
    FROM snapshot_rows WHERE kind = 'mixture'""",
    """CREATE VIEW packs AS
    SELECT s.snapshot, f.shard, f.file, f.bytes, (s.summary->>'$.context')::INTEGER AS context, f.sha256
    FROM snapshot_rows s JOIN file_rows f ON f.snapshot = s.snapshot WHERE s.kind = 'packs' AND f.tbl = 'pack'""",
    """CREATE VIEW models AS
    SELECT snapshot, step, (summary->>'$.parameters')::BIGINT AS parameters, (summary->>'$.tokens')::BIGINT AS tokens,
           (summary->>'$.steps')::BIGINT AS steps, (summary->>'$.loss')::DOUBLE AS loss, id
    FROM snapshot_rows WHERE kind = 'model'""",
    """CREATE VIEW evaluations AS
    SELECT s.snapshot, r->>'$.model' AS model, (r->>'$.bits_per_byte')::DOUBLE AS bits_per_byte,
           (r->>'$.perplexity')::DOUBLE AS perplexity, (r->>'$.documents')::INTEGER AS documents,
           (r->>'$.accuracy')::DOUBLE AS accuracy, (r->>'$.low')::DOUBLE AS low, (r->>'$.high')::DOUBLE AS high,
           coalesce(r->>'$.task', 'text') AS task
    FROM snapshot_rows s, unnest((s.summary->'$.results')::JSON[]) AS u(r) WHERE s.kind = 'evaluation'""",
    """CREATE VIEW comparisons AS
    SELECT s.snapshot, r->>'$.model' AS model, r->>'$.baseline' AS baseline,
           (r->>'$.difference')::DOUBLE AS difference, (r->>'$.low')::DOUBLE AS low, (r->>'$.high')::DOUBLE AS high,
           (r->>'$.win_probability')::DOUBLE AS win_probability
    FROM snapshot_rows s, unnest((s.summary->'$.comparisons')::JSON[]) AS u(r) WHERE s.kind = 'evaluation'""",
    """CREATE VIEW audits AS
    SELECT s.snapshot, (r->>'$.from')::DOUBLE AS "from", (r->>'$.to')::DOUBLE AS "to",
           (r->>'$.of')::BIGINT AS planted, (r->>'$.found')::BIGINT AS found, (r->>'$.share')::DOUBLE AS recall,
           (r->>'$.low')::DOUBLE AS low, (r->>'$.high')::DOUBLE AS high
    FROM snapshot_rows s, unnest((s.summary->'$.levels')::JSON[]) AS u(r) WHERE s.kind = 'audit'""",
    """CREATE VIEW takedowns AS
    SELECT t.takedown, t.time, t.reason, t.documents, t.finished, t.replaced, t.expired,
           (SELECT coalesce(list(DISTINCT e.model ORDER BY e.model), []) FROM exposure_rows e
            WHERE e.takedown = t.takedown) AS models
    FROM takedown_rows t""",
    """CREATE VIEW taken_down AS
    SELECT t.takedown, d.id, d.content FROM takedown_rows t JOIN taken_down_parquet d ON d.file = t.file""",
    """CREATE VIEW exposures AS
    SELECT takedown, model, packs, rows, samples, "first" FROM exposure_rows""",
)
