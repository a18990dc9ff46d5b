use super::*;
use arrow::array::AsArray;
use std::sync::Mutex;

fn topics(n: usize) -> RecordBatch {
    let column =
        |f: &dyn Fn(usize) -> String| Arc::new(StringArray::from_iter_values((0..n).map(f))) as ArrayRef;
    RecordBatch::try_from_iter([
        ("topic_id", column(&|i| format!("COM{i:06}-01"))),
        ("bisac_code", column(&|i| format!("COM{i:06}"))),
        ("top_category", column(&|_| "COMPUTERS".into())),
        ("subcategory", column(&|_| "Compilers".into())),
        ("subtopic", column(&|i| if i == 0 { "Compilers".into() } else { format!("Language {i}") })),
        ("source", column(&|_| "bisac".into())),
    ])
    .unwrap()
}

const CONTENTS: &str =
    "Course: All About It\n1. Lexical Analysis\n2. Parsing Expressions\n3. Code Generation";

async fn outline<F, Fut>(options: OutlineOptions, n: usize, ask: F) -> (Vec<RecordBatch>, Vec<Reject>)
where
    F: Fn(OutlineRequest, u32) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<String, AskFailure>> + Send + 'static,
{
    let rejects = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&rejects);
    let input = stream::iter([Ok(topics(n))]).boxed();
    let rows = outline_stream(&options, input, ask, Arc::new(move |r| sink.lock().unwrap().push(r))).unwrap();
    let rows = rows.try_collect().await.unwrap();
    let rejects = rejects.lock().unwrap().clone();
    (rows, rejects)
}

fn column(rows: &[RecordBatch], name: &str) -> Vec<String> {
    let values = |b: &RecordBatch| {
        b[name].as_string::<i32>().iter().map(|v| v.unwrap().to_string()).collect::<Vec<_>>()
    };
    rows.iter().flat_map(values).collect()
}

#[tokio::test]
async fn a_topic_becomes_units_that_know_those_before_them() {
    let prompts = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&prompts);
    let (rows, rejects) = outline(OutlineOptions::default(), 2, move |request, _| {
        seen.lock().unwrap().push(request.prompt);
        async { Ok(CONTENTS.to_string()) }
    })
    .await;
    assert_eq!(rows[0].schema(), outline_schema());
    assert_eq!(
        column(&rows, "topic_id")[..4],
        ["COM000000-01-u01", "COM000000-01-u02", "COM000000-01-u03", "COM000001-01-u01"]
    );
    assert_eq!(column(&rows, "subtopic")[..2], ["Lexical Analysis", "Parsing Expressions"]);
    assert_eq!(
        column(&rows, "previous_units")[..3],
        ["", "Lexical Analysis", "Lexical Analysis\nParsing Expressions"]
    );
    assert_eq!(column(&rows, "course")[0], "All About It");
    let subcategories = column(&rows, "subcategory");
    assert_eq!(
        (subcategories[0].as_str(), subcategories[3].as_str()),
        ("Compilers", "Compilers / Language 1")
    );
    assert!(column(&rows, "source")[0].starts_with("outline:mistralai/"));
    assert!(rejects.is_empty());
    let prompts = prompts.lock().unwrap();
    assert!(prompts[1].contains("course on Language 1 (Computers): 8 units"), "{}", prompts[1]);
}

#[tokio::test]
async fn bad_answers_are_counted_and_asked_again_and_the_topic_goes_on_without_outline() {
    let ask = |request: OutlineRequest, attempt: u32| async move {
        match (request.topic_id.as_str(), attempt) {
            ("COM000000-01", 0) => Ok("I'm sorry, but I can't help with that.".to_string()),
            ("COM000000-01", 1) => Ok("1. Lexical Analysis\n2. Parsing Expressions".to_string()),
            ("COM000000-01", 2) => Err(AskFailure::ThisRequest { reason: "timed out".into() }),
            ("COM000000-01", _) => Ok(CONTENTS.to_string()),
            _ => Ok("A course is a course.".to_string()),
        }
    };
    let options = OutlineOptions { max_retries: 3, ..Default::default() };
    let (rows, rejects) = outline(options.clone(), 2, ask).await;
    assert_eq!(column(&rows, "topic_id")[3..], ["COM000001-01"]);
    let reasons: Vec<&str> = rejects.iter().map(|r| r.reason.as_str()).collect();
    assert_eq!(
        reasons,
        ["refused", "malformed", "failed", "malformed", "malformed", "malformed", "malformed"]
    );

    let dropped = OutlineOptions { other_topics: OtherTopics::Drop, ..options };
    let (rows, rejects) = outline(dropped, 2, ask).await;
    assert_eq!(column(&rows, "topic_id").len(), 3);
    assert_eq!(rejects.last().unwrap().reason, "no_outline");
}

#[tokio::test]
async fn a_number_of_courses_is_chosen_by_hash_and_the_order_of_answers_plays_no_part() {
    let run = |seed, max_in_flight| {
        let options = OutlineOptions { courses: Some(3), seed, max_in_flight, ..Default::default() };
        outline(options, 200, move |request: OutlineRequest, _| async move {
            if max_in_flight > 1 && request.topic_id.as_bytes()[8].is_multiple_of(2) {
                tokio::task::yield_now().await;
            }
            Ok(CONTENTS.to_string())
        })
    };
    let (rows, _) = run(1, 8).await;
    let ids = column(&rows, "topic_id");
    assert_eq!((ids.len(), ids.iter().filter(|id| id.contains("-u")).count()), (197 + 9, 9));
    assert_eq!(run(1, 1).await.0, rows);
    assert_ne!(column(&run(2, 8).await.0, "topic_id"), ids);
}

#[tokio::test]
async fn a_dead_server_ends_the_stream_with_its_reason() {
    let input = stream::iter([Ok(topics(1))]).boxed();
    let ask = |_, _| async { Err(AskFailure::Everything { source: "401: wrong key".into() }) };
    let mut rows = outline_stream(&OutlineOptions::default(), input, ask, Arc::new(|_| {})).unwrap();
    let error = rows.next().await.unwrap().unwrap_err().to_string();
    assert!(error.contains("401: wrong key") && error.contains("COM000000-01"), "{error}");
}
