use super::*;
use crate::{head::tests::identity, linear::tests::made_up, test_backbone};

fn examples(count: usize) -> Vec<EmbeddedExample> {
    let example = |(index, (vector, score)): (usize, (Vec<f32>, f32))| EmbeddedExample {
        id: format!("page {index}"),
        vector,
        score: score.round(),
    };
    made_up(count, 0.3, 9).into_iter().enumerate().map(example).collect()
}

#[test]
fn a_head_learns_beats_the_baseline_and_does_not_depend_on_the_order() {
    let options = TrainOptions { name: "made up".into(), held_out_share: 0.2, ..Default::default() };
    let trained = train_on_embeddings(&identity(6), examples(300), &options).unwrap();
    let report = &trained.report;
    assert!(report.held_out.f1_at(3) > 0.85, "{:?}", report.held_out);
    assert!(report.held_out.macro_f1 > report.majority.macro_f1 + 0.2);
    assert_eq!(report.held_out.pages + report.head.training_pages, 300);
    // The best of both kinds is measured on the pages apart.
    assert_eq!(report.candidates.iter().filter(|c| c.held_out.is_some()).count(), 2);
    assert_eq!(report.candidates[0].held_out.as_ref(), Some(&report.held_out));

    let mut backwards = examples(300);
    backwards.reverse();
    let again = train_on_embeddings(&identity(6), backwards, &options).unwrap();
    assert_eq!(again.head, trained.head);
    assert_eq!(again.report.to_markdown(), report.to_markdown());
}

#[test]
fn wrong_annotations_are_named() {
    let options = TrainOptions::default();
    let error = |change: fn(&mut Vec<EmbeddedExample>)| {
        let mut wrong = examples(40);
        change(&mut wrong);
        train_on_embeddings(&identity(6), wrong, &options).unwrap_err().to_string()
    };
    assert!(error(|rows| rows[7].score = f32::NAN).contains("page 7 has the score NaN"));
    assert!(error(|rows| rows[7].id = "page 3".into()).contains("page 3 stands twice"));
    assert!(error(|rows| rows[7].vector.truncate(5)).contains("page 7 has a vector of 5"));
    assert!(error(|rows| rows.truncate(5)).contains("5 pages"));
    assert!(error(|rows| rows.iter_mut().for_each(|row| row.score = 2.0)).contains("1 different"));
    let options = TrainOptions { folds: 1, ..Default::default() };
    let text = train_on_embeddings(&identity(6), examples(40), &options).unwrap_err().to_string();
    assert!(text.contains("folds = 1, expected 2 to 20"), "{text}");
}

#[test]
fn a_row_that_stands_twice_counts_once() {
    let mut rows = examples(40);
    rows.push(rows[3].clone());
    let repeated = train_on_embeddings(&identity(6), rows, &TrainOptions::default()).unwrap();
    let plain = train_on_embeddings(&identity(6), examples(40), &TrainOptions::default()).unwrap();
    assert_eq!(repeated.report.repeated_rows, 1);
    assert_eq!(repeated.head, plain.head);
}

#[test]
fn scores_beyond_the_scale_are_clipped() {
    let mut rows = examples(40);
    rows[0].score = 9.0;
    let clipped = train_on_embeddings(&identity(6), rows.clone(), &TrainOptions::default()).unwrap();
    rows[0].score = 5.0;
    let plain = train_on_embeddings(&identity(6), rows, &TrainOptions::default()).unwrap();
    assert_eq!(clipped.head, plain.head);
}

#[test]
fn real_pages_are_told_apart() {
    let Some(backbone) = test_backbone(64, 2) else {
        return;
    };
    let lessons = ["cells", "gravity", "prime numbers", "volcanoes", "electric current", "the water cycle"];
    let goods = ["shoes", "phones", "curtains", "garden chairs", "coffee machines", "headphones"];
    let mut rows = Vec::new();
    for (round, lead) in
        ["In this chapter", "Students will see how", "The lesson shows why"].iter().enumerate()
    {
        for (lesson, good) in lessons.iter().zip(&goods) {
            let text =
                format!("{lead} {lesson} can be explained step by step, with an example and exercises.");
            rows.push(Example { id: format!("{round} {lesson}"), text, score: 4.0 });
            let text = format!("Sale {round}: buy {good} now, free delivery, 30 % off until Sunday!");
            rows.push(Example { id: format!("{round} {good}"), text, score: 0.0 });
        }
    }
    rows.push(Example { id: "blank".into(), text: " \n".into(), score: 0.0 });
    let options = TrainOptions { held_out_share: 0.3, ..Default::default() };
    let trained = train_head(&backbone, rows, &options).unwrap();
    assert_eq!(trained.report.pages_without_text, 1);
    assert_eq!(trained.report.held_out.f1_at(3), 1.0);
}

#[test]
fn repeats_and_balanced_batches_are_tried_and_their_spread_is_told() {
    let options = TrainOptions {
        repeats: 3,
        folds: 4,
        samplings: vec![Sampling::Shuffled, Sampling::Balanced],
        ridge_lambdas: vec![0.1],
        adamw: crate::AdamwOptions { minimum_steps: 200, ..Default::default() },
        ..Default::default()
    };
    let report = train_on_embeddings(&identity(6), examples(200), &options).unwrap().report;
    // A ridge fit and a shuffled AdamW for each of three weightings, and one with balanced batches.
    assert_eq!(report.candidates.len(), 7);
    let best = &report.candidates[0];
    assert_eq!((best.folds.len(), best.by_fold.folds), (12, 12));
    assert_eq!(best.cross_validated.pages, 3 * report.head.training_pages);
    assert!(best.by_fold.macro_f1.deviation > 0.0);
    assert_eq!(report.cross_validated_curve.grid[0].kept, best.cross_validated.pages);
    assert_eq!(report.held_out_curve.positives, report.held_out.at(3).unwrap().positives);
    let card = report.to_markdown();
    assert!(card.contains("4 folds, 3 times over") && card.contains("AdamW, balanced batches"), "{card}");
}

#[test]
fn the_published_recipe_trains_one_way() {
    let trained = train_on_embeddings(&identity(6), examples(200), &TrainOptions::published()).unwrap();
    let methods: Vec<Method> = trained.report.candidates.iter().map(|c| c.method).collect();
    let adamw = Method::Adamw { weighting: ClassWeighting::Uniform, sampling: Sampling::Shuffled };
    assert_eq!(methods, [adamw]);
    // A tenth of each whole score's pages, to the nearest page.
    assert_eq!((trained.report.head.seed, trained.report.held_out.pages), (42, 22));
}
