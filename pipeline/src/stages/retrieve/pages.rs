//! Brings the hits and the texts of their pages together in one pass over the pages.
//!
//! Neither fits in memory: 34 million hits, and of 520 million pages those that were hit. First the
//! hits go by, and a Bloom filter takes their page ids in. Then the pages go by, and those that it knows
//! stay. A sort by page id, which spills, brings a page before its hits; one that the filter took for
//! another has none.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, RecordBatch, StringArray, UInt32Array, UInt64Array,
};
use arrow::compute::{self, cast, filter_record_batch, interleave_record_batch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt64Type};
use arrow::error::ArrowError;
use datafusion::prelude::{DataFrame, col};
use fastbloom::AtomicBloomFilter;
use futures::{StreamExt, TryStreamExt, stream};

use super::super::columns::{schema_of, text_column};
use crate::engine::streams::{BatchStream, execute, from_domain, to_domain};
use crate::engine::{Plan, operator};
use crate::runner::context::StageContext;
use crate::runner::error::StageError;
use crate::runner::ledger::RowSink;

/// The column by which hits and pages meet.
const DOC_ID: &str = "doc_id";

/// Number of a page in the order of the tables; NULL for a hit, so that it sorts behind its page.
const ORDER: &str = "__order";

/// The rows of `hits` (of any columns, `doc_id` among them) with the columns of their pages, in the
/// order of the page ids. Each table of `pages` has the same columns: `id` first, then those that a
/// row carries. Of pages with one id the first counts. Hits whose page is in no table are dropped
/// (reason `page_not_found`): a search server may hold other pages than these.
///
/// # Errors
/// The plan cannot be built.
pub fn join(ctx: &StageContext, hits: DataFrame, pages: Vec<Plan>) -> Result<DataFrame, StageError> {
    let Some(first) = pages.first() else {
        return Err(ctx.input("input `pages` must be a stage that leaves a table"));
    };
    let plan_error = |error| ctx.plan_error(&error);
    let of_hits = schema_of(&hits);
    let of_pages = Arc::new(Schema::new(schema_of(first).fields()[1..].to_vec()));
    let mixed = mixed_schema(&of_hits, &of_pages);
    let gather = {
        let (mixed, of_hits) = (mixed.clone(), of_hits.clone());
        move |hits| {
            let rows = hits_then_pages(to_domain(hits), pages.clone(), &of_hits, &mixed);
            Ok(from_domain(mixed.clone(), rows))
        }
    };
    let rows = operator::apply(ctx.session(), hits, "hits_then_pages", mixed, Arc::new(gather))
        .and_then(|rows| rows.sort(vec![col(DOC_ID).sort(true, false), col(ORDER).sort(true, false)]))
        .map_err(plan_error)?;
    let fields = of_hits.fields().iter().chain(of_pages.fields()).cloned();
    let joined = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let sink = ctx.ledger.drop_sink();
    let pair = {
        let joined = joined.clone();
        move |rows| {
            let mut pairing = Pairing {
                joined: joined.clone(),
                hit_columns: of_hits.fields().len(),
                page: None,
                not_found: sink.clone(),
            };
            let rows = to_domain(rows).map(move |batch| pairing.join(&batch?));
            Ok(from_domain(joined.clone(), rows))
        }
    };
    operator::apply(ctx.session(), rows, "join_pages", joined, Arc::new(pair)).map_err(plan_error)
}

/// Hits and pages as rows of one table: each has NULL where the other has its columns.
fn mixed_schema(of_hits: &Schema, of_pages: &Schema) -> SchemaRef {
    let optional = |field: &Arc<Field>| field.as_ref().clone().with_nullable(true);
    let mut fields: Vec<Field> = of_hits.fields().iter().chain(of_pages.fields()).map(optional).collect();
    fields.push(Field::new(ORDER, DataType::UInt64, true));
    Arc::new(Schema::new(fields))
}

/// Memory of the filter, in bytes. Of 34 million pages that were hit, one page in 2,000 that was not is taken
/// for one of them; of fewer, none.
pub const FILTER_BYTES: usize = 64 << 20;

/// The ids of pages that were hit.
struct Hit {
    ids: AtomicBloomFilter,
    /// How many, about.
    pages: AtomicU64,
}

impl Hit {
    fn new() -> Self {
        let ids = AtomicBloomFilter::with_num_bits(8 * FILTER_BYTES).seed(&0).expected_items(34_000_000);
        Self { ids, pages: AtomicU64::new(0) }
    }

    fn add(&self, id: &str) {
        let known = self.ids.insert(id);
        self.pages.fetch_add(u64::from(!known), Ordering::Relaxed);
    }
}

/// All hits, then their pages and perhaps a few others.
fn hits_then_pages(
    hits: BatchStream,
    pages: Vec<Plan>,
    of_hits: &SchemaRef,
    mixed: &SchemaRef,
) -> BatchStream {
    let wanted = Arc::new(Hit::new());
    let hits = {
        let (wanted, mixed) = (wanted.clone(), mixed.clone());
        hits.map(move |batch| {
            let batch = batch?;
            let ids = text_column(&batch, DOC_ID)?;
            ids.iter().flatten().for_each(|id| wanted.add(id));
            let nulls = mixed.fields()[batch.num_columns()..]
                .iter()
                .map(|field| arrow::array::new_null_array(field.data_type(), batch.num_rows()));
            let columns = batch.columns().iter().cloned().chain(nulls).collect();
            RecordBatch::try_new(mixed.clone(), columns)
        })
    };
    let (of_hits, mixed) = (of_hits.clone(), mixed.clone());
    // Asked for when the hits have ended, and so after the last id.
    let pages = stream::once(async move {
        tracing::info!(pages = wanted.pages.load(Ordering::Relaxed), "hit pages are read");
        let mut order = 0;
        let batches = stream::iter(pages).then(execute).map_ok(to_domain).map_err(ArrowError::from);
        let pages = batches.try_flatten().map(move |batch| {
            let batch = batch?;
            let first = order;
            order += batch.num_rows() as u64;
            wanted_pages(&batch, first, &wanted, &of_hits, &mixed)
        });
        Ok::<_, ArrowError>(pages.boxed())
    });
    hits.chain(pages.try_flatten()).boxed()
}

/// The pages of a batch that were hit; the batch's first page has number `first`.
fn wanted_pages(
    batch: &RecordBatch,
    first: u64,
    wanted: &Hit,
    of_hits: &Schema,
    mixed: &SchemaRef,
) -> Result<RecordBatch, ArrowError> {
    let ids = text_column(batch, batch.schema().field(0).name())?;
    let keep: BooleanArray =
        ids.iter().map(|id| Some(id.is_some_and(|id| wanted.ids.contains(id)))).collect();
    let order: UInt64Array = (first..first + batch.num_rows() as u64).collect();
    let kept = filter_record_batch(batch, &keep)?;
    let (ids, order) = (compute::filter(&ids, &keep)?, compute::filter(&order, &keep)?);
    let mut columns: Vec<ArrayRef> = Vec::with_capacity(mixed.fields().len());
    for field in of_hits.fields() {
        columns.push(match field.name() == DOC_ID {
            true => cast(&ids, field.data_type())?,
            false => arrow::array::new_null_array(field.data_type(), kept.num_rows()),
        });
    }
    for (column, field) in kept.columns()[1..].iter().zip(&mixed.fields()[of_hits.fields().len()..]) {
        // Two dumps may hold one column in two types.
        columns.push(cast(column, field.data_type())?);
    }
    columns.push(order);
    RecordBatch::try_new(mixed.clone(), columns)
}

/// Gives hits the columns of the page before them.
struct Pairing {
    joined: SchemaRef,
    hit_columns: usize,
    /// The last page seen, as one row.
    page: Option<RecordBatch>,
    not_found: RowSink,
}

impl Pairing {
    fn join(&mut self, batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
        /// A page as `interleave` names it: the one from before, or a row of this batch.
        const BEFORE: usize = 0;
        const HERE: usize = 1;
        let before = self.page.take().unwrap_or_else(|| batch.slice(0, 0));
        let (ids_before, ids) = (text_column(&before, DOC_ID)?, text_column(batch, DOC_ID)?);
        let order = batch.column(batch.schema().index_of(ORDER)?).as_primitive::<UInt64Type>();
        let topics = batch.column_by_name("topic_id").and_then(|topics| topics.as_string_opt::<i32>());
        let id_of = |(part, row): (usize, usize)| match part {
            BEFORE => ids_before.value(row),
            _ => ids.value(row),
        };
        let mut page = (before.num_rows() > 0).then_some((BEFORE, 0));
        let (mut hits, mut pages) = (Vec::new(), Vec::new());
        for row in 0..batch.num_rows() {
            let known = page.filter(|&page| id_of(page) == ids.value(row));
            match (order.is_valid(row), known) {
                (true, None) => page = Some((HERE, row)),
                // The page stands in a later table too.
                (true, Some(_)) => {}
                (false, Some(page)) => {
                    hits.push(row as u32);
                    pages.push(page);
                }
                (false, None) => self.report(ids.value(row), topics, row),
            }
        }
        let hits = compute::take_record_batch(batch, &UInt32Array::from(hits))?;
        let pages = interleave_record_batch(&[&before, batch], &pages)?;
        self.page = match page {
            None => None,
            Some((BEFORE, _)) => Some(before),
            // A copy: a slice would keep the whole batch in memory.
            Some((_, row)) => Some(compute::take_record_batch(batch, &UInt32Array::from(vec![row as u32]))?),
        };
        let after = self.joined.fields().len();
        let columns = hits.columns()[..self.hit_columns].iter();
        let columns = columns.chain(&pages.columns()[self.hit_columns..after]).cloned().collect();
        RecordBatch::try_new(self.joined.clone(), columns)
    }

    fn report(&self, id: &str, topics: Option<&StringArray>, row: usize) {
        let topic = topics.map(|topics| topics.value(row)).unwrap_or_default();
        (self.not_found)(id.to_owned(), "page_not_found".to_owned(), format!("a page of topic {topic}"));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::super::testing;
    use super::*;

    fn hits() -> RecordBatch {
        testing::batch(json!([
            {"topic_id": "t1", "rank": 1, "doc_id": "b"},
            {"topic_id": "t1", "rank": 2, "doc_id": "a"},
            {"topic_id": "t2", "rank": 1, "doc_id": "gone"},
            {"topic_id": "t2", "rank": 2, "doc_id": "b"},
        ]))
    }

    async fn joined(pages: &[RecordBatch]) -> (Vec<RecordBatch>, StageContext) {
        let ctx = testing::context();
        let read = |batch: &RecordBatch| ctx.session().read_batch(batch.clone()).unwrap();
        let rows = join(&ctx, read(&hits()), pages.iter().map(|page| read(page).into()).collect()).unwrap();
        let order = ["topic_id", "rank"].map(|column| col(column).sort(true, false)).to_vec();
        (rows.sort(order).unwrap().collect().await.unwrap(), ctx)
    }

    #[tokio::test]
    async fn hits_get_the_first_page_of_their_id_and_lost_pages_are_counted() {
        let old = testing::batch(json!([
            {"id": "c", "text": "not hit"}, {"id": "b", "text": "old b"}, {"id": "b", "text": "again"},
        ]));
        let new = testing::batch(json!([{"id": "b", "text": "new b"}, {"id": "a", "text": "new a"}]));
        let (rows, ctx) = joined(&[old, new]).await;
        assert_eq!(testing::strings(&rows, "text"), ["old b", "new a", "old b"]);
        assert_eq!(testing::strings(&rows, "doc_id"), ["b", "a", "b"]);
        let names: Vec<_> = rows[0].schema().fields().iter().map(|field| field.name().clone()).collect();
        assert_eq!(names.last().unwrap(), "text", "{names:?}");
        let dropped = ctx.ledger.dropped();
        assert_eq!((dropped[0].id.as_str(), dropped[0].reason.as_str()), ("gone", "page_not_found"));
        assert_eq!(dropped.len(), 1);
    }

    #[test]
    fn a_page_stays_known_across_batches() {
        let mixed = testing::batch(json!([
            {"topic_id": null, "doc_id": "a", "text": "page a", "n": 0},
            {"topic_id": "t1", "doc_id": "a", "text": null, "n": null},
            {"topic_id": "t2", "doc_id": "a", "text": null, "n": null},
            {"topic_id": "t3", "doc_id": "b", "text": null, "n": null},
        ]));
        let order = cast(mixed.column_by_name("n").unwrap(), &DataType::UInt64).unwrap();
        let column = |name: &str| mixed.column_by_name(name).unwrap().clone();
        let columns = ["topic_id", "doc_id", "text"].map(|name| (name, column(name), true));
        let mixed =
            RecordBatch::try_from_iter_with_nullable(columns.into_iter().chain([(ORDER, order, true)]))
                .unwrap();
        for cut in 0..=mixed.num_rows() {
            let ctx = testing::context();
            let mut pairing = Pairing {
                joined: Arc::new(mixed.schema().project(&[0, 1, 2]).unwrap()),
                hit_columns: 2,
                page: None,
                not_found: ctx.ledger.drop_sink(),
            };
            let parts = [mixed.slice(0, cut), mixed.slice(cut, mixed.num_rows() - cut)];
            let rows: Vec<_> = parts.iter().map(|part| pairing.join(part).unwrap()).collect();
            assert_eq!(testing::strings(&rows, "topic_id"), ["t1", "t2"], "cut at {cut}");
            assert_eq!(testing::strings(&rows, "text"), ["page a", "page a"], "cut at {cut}");
            assert_eq!(ctx.ledger.dropped().len(), 1, "cut at {cut}");
        }
    }
}
