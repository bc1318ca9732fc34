"""The SQL that users rely on: views and table macros of the projection, in the order they are created.

A view with a `snapshot` column speaks of every snapshot: filter by it. `decisions` has those that the snapshot's own
step took, not those of the steps before it. `{root}` stands for the address of the store's data.
"""

from catalog.scans import SCANS


def _table(name: str, columns: str) -> str:
    """A view of what shards or artifacts of snapshots hold under one name."""
    return f"""CREATE VIEW {name} AS
    SELECT s.snapshot, {columns}
    FROM snapshot_rows s
    JOIN column_rows c ON c.snapshot = s.number AND c.tbl = '{name}'
    JOIN list_rows l ON l.list = c.list
    JOIN {name}_parquet q ON q.file = l.file"""


SCANNED = tuple(f"CREATE VIEW {kind}_parquet AS SELECT * FROM {kind}_scan('{{root}}')" for kind in SCANS)

VIEWS = (
    # One left join for what is live, and a filter: as a UNION of snapshots with and without decisions DuckDB builds the
    # other hash tables twice (12 s and 2.4 GB where this takes 6 s and 0.9 GB, 10M documents).
    """CREATE VIEW documents AS
    SELECT s.snapshot, d.id, d.h64, d.content, d.source, d.source_id, d.url, d.host,
           coalesce(p.domain, d.domain) AS domain, d.n_chars, d.n_bytes, t.n_tokens, l.shard, d.row
    FROM snapshot_rows s
    JOIN list_rows l ON l.list = s.documents
    LEFT JOIN list_rows v ON v.list = s.live AND v.shard = l.shard
    LEFT JOIN attribute_rows a ON a.attribute = 'tokens' AND a.documents = l.file
    LEFT JOIN attribute_rows b ON b.attribute = 'domain' AND b.documents = l.file
    JOIN documents_parquet d ON d.file = l.file
    LEFT JOIN decisions_parquet k ON k.file = v.file AND k.row = d.row
    LEFT JOIN tokens_parquet t ON t.file = a.file AND t.row = d.row
    LEFT JOIN domain_parquet p ON p.file = b.file AND p.row = d.row
    WHERE s.live IS NULL OR k.kept""",
    "CREATE VIEW texts AS SELECT id, text FROM documents_parquet",
    """CREATE VIEW decisions AS
    SELECT s.snapshot, k.id, k.kept, k.rule, k.reason, k.kept_id, k.similarity, t.n_tokens, d.source, s.step
    FROM snapshot_rows s
    JOIN column_rows c ON c.snapshot = s.number AND c.decided = s.number
    JOIN list_rows f ON f.list = c.list
    JOIN decisions_parquet k ON k.file = f.file
    JOIN list_rows e ON e.list = s.documents AND e.shard = f.shard
    JOIN documents_parquet d ON d.file = e.file AND d.row = k.row
    LEFT JOIN attribute_rows a ON a.attribute = 'tokens' AND a.documents = e.file
    LEFT JOIN tokens_parquet t ON t.file = a.file AND t.row = k.row""",
    """CREATE VIEW document_totals AS
    SELECT s.snapshot, t.source, t.domain, sum(t.documents)::BIGINT AS documents, sum(t.chars)::BIGINT AS n_chars,
           sum(t.bytes)::BIGINT AS n_bytes,
           CASE WHEN count(t.tokens) = count(*) THEN sum(t.tokens)::BIGINT END AS n_tokens
    FROM snapshot_rows s JOIN total_rows t ON t.snapshot = s.counted AND t.layer >= s.depth
    GROUP BY s.snapshot, t.source, t.domain""",
    """CREATE VIEW decision_totals AS
    SELECT s.snapshot, c.tbl AS layer, s.step, t.layer <> c.position AS kept,
           CASE WHEN t.layer = c.position THEN t.rule END AS rule, t.source, t.domain,
           sum(t.documents)::BIGINT AS documents, sum(t.chars)::BIGINT AS n_chars, sum(t.bytes)::BIGINT AS n_bytes,
           CASE WHEN count(t.tokens) = count(*) THEN sum(t.tokens)::BIGINT END AS n_tokens
    FROM snapshot_rows s JOIN column_rows c ON c.snapshot = s.number AND c.decided = s.number
    JOIN total_rows t ON t.snapshot = s.counted AND t.layer >= c.position
    GROUP BY ALL""",
    """CREATE VIEW cell_totals AS
    SELECT s.snapshot, t.cell, t.windows, t.tokens AS n_tokens
    FROM snapshot_rows s JOIN column_rows c ON c.snapshot = s.number AND c.tbl = 'cells'
    JOIN window_rows t ON t.list = c.list""",
    _table("cells", 'q.cell, q.id, q."window", q.start, q.n_tokens, q.similarity'),
    _table("cards", "q.* EXCLUDE (file)"),
    _table("factors", 'q.id, q."window", q.cell, q.score, q.factor'),
    _table("draws", 'q.id, q."window", q.cell, q.copies'),
    _table("statistics", "q.* EXCLUDE (file, row)"),
    _table("edges", "q.left_id, q.right_id, q.similarity"),
    # evaluation sets are numbered as the inputs of the run that compared with them, whatever takedown rewrote it since
    """CREATE VIEW matches AS
    WITH RECURSIVE origin AS (
        SELECT DISTINCT snapshot, snapshot AS made FROM lineage_rows WHERE step IN ('decontaminate', 'takedown')
        UNION ALL
        SELECT o.snapshot, i.input FROM origin o
        JOIN lineage_rows i ON i.snapshot = o.made AND i.position = 0 AND i.step = 'takedown'
    )
    SELECT s.snapshot, m.id, i.input AS evaluation, m.ngrams, m.passage
    FROM snapshot_rows s
    JOIN column_rows c ON c.snapshot = s.number AND c.tbl = 'matches'
    JOIN list_rows l ON l.list = c.list
    JOIN matches_parquet m ON m.file = l.file
    JOIN origin o ON o.snapshot = s.snapshot
    JOIN lineage_rows i ON i.snapshot = o.made AND i.position = m.evaluation + 1 AND i.step = 'decontaminate'""",
    _table("quarantine", "q.path, q.position, q.reason, q.excerpt"),
    _table("weights", "q.* EXCLUDE (file)"),
    _table("scores", "q.* EXCLUDE (file)"),
    _table("given", "q.* EXCLUDE (file)"),
    _table("forecasts", "q.* EXCLUDE (file)"),
    """CREATE VIEW evaluation_parts AS
    SELECT s.snapshot, w.model, w.part, w."group" AS name, w.* EXCLUDE (file, model, part, "group")
    FROM snapshot_rows s JOIN column_rows c ON c.snapshot = s.number AND c.tbl = 'parts'
    JOIN list_rows l ON l.list = c.list JOIN parts_parquet w ON w.file = l.file""",
    """CREATE VIEW snapshots AS
    SELECT s.snapshot, s.name, s.version, s.kind, s.id, s.step, s.shards, s.rows, s.bytes, r.started, r.seconds,
           s.layers, s.summary, s.run, s.is_live AS live
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
    """CREATE VIEW files AS
    SELECT s.snapshot, c.tbl AS "table", l.shard,
           '{root}' || lower(hex(f.sha256))[1:2] || '/' || lower(hex(f.sha256)) || '.' || f.suffix AS file,
           f.bytes, lower(hex(f.sha256)) AS sha256
    FROM snapshot_rows s JOIN column_rows c ON c.snapshot = s.number JOIN lists k ON k.list = c.list
    JOIN list_rows l ON l.list = c.list JOIN file_rows f ON f.kind = k.kind AND f.file = l.file""",
    """CREATE VIEW attributes AS
    SELECT snapshot, shard, "table" AS attribute, file, bytes, sha256 FROM files
    WHERE "table" IN ('tokens', 'domain', 'cells', 'draws', 'statistics', 'matches', 'edges', 'signatures')""",
    """CREATE VIEW prologue AS
    SELECT format('SET VARIABLE "{}_files" = (SELECT list(file ORDER BY number) FROM files_of(''{}''))', kind, kind)
           AS statement
    FROM file_rows GROUP BY kind ORDER BY kind""",
    """CREATE VIEW packs AS
    SELECT s.snapshot, f.shard, f.file, f.bytes, (s.summary->>'$.context')::INTEGER AS context, f.sha256
    FROM snapshot_rows s JOIN files f ON f.snapshot = s.snapshot WHERE s.kind = 'packs' AND f."table" = 'pack'""",
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
    _table("shifts", "q.cell, q.target_share, q.new_share"),
    """CREATE VIEW drifts AS
    SELECT snapshot, summary->>'$.model' AS model, summary->>'$.verdict' AS verdict,
           (summary->>'$.documents')::INTEGER AS documents, (summary->>'$.known_documents')::INTEGER AS known_documents,
           (summary->>'$.target_documents')::INTEGER AS target_documents, (summary->>'$.cells')::INTEGER AS cells,
           (summary->>'$.psi')::DOUBLE AS psi, (summary->>'$.psi_low')::DOUBLE AS psi_low,
           (summary->>'$.psi_high')::DOUBLE AS psi_high, (summary->>'$.psi_expected')::DOUBLE AS psi_expected,
           (summary->>'$.psi_limit')::DOUBLE AS psi_limit, (summary->>'$.psi_p')::DOUBLE AS psi_p,
           (summary->>'$.ks')::DOUBLE AS ks, (summary->>'$.ks_expected')::DOUBLE AS ks_expected,
           (summary->>'$.ks_limit')::DOUBLE AS ks_limit, (summary->>'$.ks_p')::DOUBLE AS ks_p,
           (summary->>'$.outside')::DOUBLE AS outside, (summary->>'$.target_outside')::DOUBLE AS target_outside,
           (summary->>'$.bits_per_byte')::DOUBLE AS bits_per_byte,
           (summary->>'$.held_out_bits_per_byte')::DOUBLE AS held_out_bits_per_byte,
           (summary->>'$.difference')::DOUBLE AS difference, (summary->>'$.low')::DOUBLE AS low,
           (summary->>'$.high')::DOUBLE AS high
    FROM snapshot_rows WHERE kind = 'verdict' AND step = 'measure-drift'""",
    """CREATE VIEW gates AS
    SELECT s.snapshot, s.summary->>'$.winner' AS winner, r->>'$.text' AS text,
           (r->>'$.documents')::INTEGER AS documents, s.summary->>'$.champion' AS champion,
           (r->>'$.champion')::DOUBLE AS champion_bits_per_byte,
           s.summary->>'$.challenger' AS challenger, (r->>'$.challenger')::DOUBLE AS challenger_bits_per_byte,
           (r->>'$.difference')::DOUBLE AS difference, (r->>'$.low')::DOUBLE AS low, (r->>'$.high')::DOUBLE AS high,
           (r->>'$.at_most')::DOUBLE AS at_most, (r->>'$.holds')::BOOLEAN AS holds
    FROM snapshot_rows s, unnest((s.summary->'$.sets')::JSON[]) AS u(r) WHERE s.kind = 'verdict' AND s.step = 'gate'""",
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
    SELECT t.takedown, d.id, d.content
    FROM takedown_rows t JOIN list_rows l ON l.list = t.list JOIN taken_down_parquet d ON d.file = l.file""",
    """CREATE VIEW exposures AS
    SELECT takedown, model, packs, rows, samples, "first" FROM exposure_rows""",
)

_RESOLVED = """(SELECT snapshot FROM snapshot_rows WHERE reference IN (snapshot, name)
                     ORDER BY snapshot <> reference, version DESC LIMIT 1)"""

# `reference` is name@version, or a name for its newest version.
MACROS: tuple[str, ...] = (
    """CREATE MACRO files_of(of) AS TABLE
    SELECT file AS number, '{root}' || sha[1:2] || '/' || sha || '.' || suffix AS file
    FROM (SELECT *, lower(hex(sha256)) AS sha FROM file_rows WHERE kind = of)""",
    f"""CREATE MACRO "at"(reference) AS TABLE
    SELECT * FROM documents WHERE snapshot = {_RESOLVED}""",
    f"""CREATE MACRO diff(before, after) AS TABLE
    WITH old AS (SELECT * FROM documents WHERE snapshot = {_RESOLVED.replace("reference", "before")}),
         new AS (SELECT * FROM documents WHERE snapshot = {_RESOLVED.replace("reference", "after")})
    SELECT 'removed' AS change, * FROM old ANTI JOIN new USING (id)
    UNION ALL
    SELECT 'added' AS change, * FROM new ANTI JOIN old USING (id)""",
    f"""CREATE MACRO waterfall(reference) AS TABLE
    WITH target AS (SELECT * FROM snapshot_rows WHERE snapshot = {_RESOLVED}),
    fates AS (
        SELECT t.layer, t.rule, sum(t.documents)::BIGINT AS documents,
               CASE WHEN count(t.tokens) = count(*) THEN sum(t.tokens)::BIGINT END AS tokens,
               t.layer < any_value(s.depth) AS gone
        FROM target s JOIN total_rows t ON t.snapshot = s.counted
        GROUP BY t.layer, t.rule
    ), steps AS (
        SELECT gone, layer, rule, documents AS dropped_documents, tokens AS dropped_tokens,
               sum(documents) OVER later AS documents,
               CASE WHEN count(tokens) OVER later = count(*) OVER later THEN sum(tokens) OVER later END AS n_tokens
        FROM fates WINDOW later AS (ORDER BY layer DESC, documents, rule DESC ROWS UNBOUNDED PRECEDING)
    )
    SELECT row_number() OVER (ORDER BY w.layer, w.dropped_documents DESC, w.rule) AS position,
           m.snapshot, c.tbl AS layer, w.rule, w.documents::BIGINT AS documents, w.n_tokens::BIGINT AS n_tokens,
           w.dropped_documents, w.dropped_tokens
    FROM target s
    JOIN steps w ON w.gone
    JOIN column_rows c ON c.snapshot = s.number AND c.position = w.layer
    JOIN snapshot_rows m ON m.number = c.decided
    ORDER BY 1""",
    f"""CREATE MACRO trained_on(reference) AS TABLE
    WITH RECURSIVE behind(snapshot) AS (
        SELECT {_RESOLVED}
        UNION
        SELECT l.input FROM behind b JOIN lineage_rows l ON l.snapshot = b.snapshot
        JOIN snapshot_rows s ON s.snapshot = l.input AND s.kind = 'model'
    ), models AS (
        SELECT s.* FROM behind b JOIN snapshot_rows s ON s.snapshot = b.snapshot AND s.kind = 'model'
    )
    SELECT g.snapshot AS model, g.id, count(*) AS windows, sum(g.samples)::BIGINT AS samples,
           sum(g.n_tokens * g.samples)::BIGINT AS n_tokens
    FROM given g JOIN models m ON m.snapshot = g.snapshot GROUP BY g.snapshot, g.id
    UNION ALL
    SELECT m.snapshot, error('the store has no record of what ' || m.snapshot || ' was given: train it again'), 0, 0, 0
    FROM models m WHERE NOT EXISTS (SELECT 1 FROM column_rows c WHERE c.snapshot = m.number AND c.tbl = 'given')""",
    """CREATE MACRO saw(document) AS TABLE
    WITH RECURSIVE after(model, trained) AS (
        SELECT snapshot, snapshot FROM snapshot_rows WHERE kind = 'model'
        UNION
        SELECT s.snapshot, a.trained FROM after a JOIN lineage_rows l ON l.input = a.model
        JOIN snapshot_rows s ON s.snapshot = l.snapshot AND s.kind = 'model'
    ), hits AS (
        SELECT snapshot, count(*) AS windows, sum(samples)::BIGINT AS samples,
               sum(n_tokens * samples)::BIGINT AS n_tokens
        FROM given WHERE starts_with(id, document) GROUP BY snapshot
    )
    SELECT a.model, a.trained, h.windows, h.samples, h.n_tokens
    FROM after a LEFT JOIN hits h ON h.snapshot = a.trained
    WHERE h.samples IS NOT NULL OR NOT EXISTS (
        SELECT 1 FROM snapshot_rows s JOIN column_rows c ON c.snapshot = s.number AND c.tbl = 'given'
        WHERE s.snapshot = a.trained)
    ORDER BY ALL""",
)
