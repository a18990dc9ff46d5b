use super::*;
use crate::config::{ModelOptions, Preset};
use crate::evaluate::EvaluateError;
use crate::language_model::{LanguageModel, WEIGHTS_FILE};
use crate::network::Network;
use crate::shards::ShardWriter;
use crate::testing::{assert_same, free_addresses};
use std::fs::OpenOptions;
use std::io::Write;

/// A small run over a patterned corpus that a model can learn.
fn options() -> PretrainOptions {
    PretrainOptions {
        model: ModelOptions {
            preset: Preset::Sample,
            vocab_size: Some(64),
            hidden_size: Some(32),
            intermediate_size: Some(48),
            layers: Some(2),
            heads: Some(4),
            kv_heads: Some(2),
            context_tokens: Some(16),
            ..ModelOptions::default()
        },
        context_tokens: 16,
        batch_sequences: 6,
        micro_batch_tokens: 64,
        steps: 24,
        lr: 1e-2,
        warmup_steps: 4,
        cooldown_steps: 8,
        checkpoint_every_steps: 5,
        keep_checkpoints: 2,
        threads: 2,
        ..PretrainOptions::published(Preset::Sample)
    }
}

fn dataset(folder: &Path) -> TokenDataset {
    let path = folder.join("tokens.bin");
    let mut writer = ShardWriter::create(&path, 64, [1; 32]).unwrap();
    for document in 0..80u32 {
        let tokens: Vec<u32> = (0..30).map(|i| 1 + (document % 7 + i * (1 + document % 3)) % 63).collect();
        writer.push(&tokens).unwrap();
    }
    writer.finish().unwrap();
    TokenDataset::single(&[path], 16, 9).unwrap()
}

fn go_on(_: StepReport) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

#[test]
fn the_loss_falls_and_the_final_model_loads() {
    let root = tempfile::tempdir().unwrap();
    let dataset = dataset(root.path());
    let out = root.path().join("run");
    let mut lines = Vec::new();
    let summary = pretrain(&options(), &dataset, &out, &mut |report| {
        lines.push(report.line);
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!((summary.ending, summary.step), (Ending::Finished, 24));
    // Logits start with deviation 1, which costs half a nat over a uniform guess.
    assert!((lines[0].loss - 64f64.ln() - 0.5).abs() < 0.4, "{:?}", lines[0]);
    assert!(lines[23].loss < lines[0].loss - 0.7, "{:?}", lines[23]);
    assert_eq!((lines[0].lr, lines[23].tokens), (0.0, 24 * 96));
    let written: Vec<LossLine> = std::fs::read_to_string(out.join(LOSS_FILE))
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(written, lines);
    assert_eq!(checkpoint::list(&out).unwrap(), [20, 24]);
    let model = LanguageModel::load(&out.join(FINAL_FOLDER)).unwrap();
    assert_eq!(model.parameters, LanguageModel::load(&summary.checkpoint).unwrap().parameters);
}

#[test]
fn stopped_and_killed_runs_end_with_the_same_bytes() {
    let root = tempfile::tempdir().unwrap();
    let dataset = dataset(root.path());
    let whole = root.path().join("whole");
    pretrain(&options(), &dataset, &whole, &mut go_on).unwrap();

    // Stopped by the caller at several steps, with another thread count each time.
    let stopped = root.path().join("stopped");
    for (stop, threads) in [(1, 1), (7, 3), (10, 2), (23, 1)] {
        let options = PretrainOptions { threads, ..options() };
        let summary = pretrain(&options, &dataset, &stopped, &mut |report| {
            if report.line.step == stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .unwrap();
        assert_eq!((summary.ending, summary.step), (Ending::Stopped, stop));
    }
    pretrain(&options(), &dataset, &stopped, &mut go_on).unwrap();
    assert_same(&whole, &stopped);

    // Killed: the loss record is ahead of the newest checkpoint and ends in half a line, a checkpoint was
    // being written, another is damaged.
    let killed = root.path().join("killed");
    let early = |stop: u64| {
        move |report: StepReport| {
            if report.line.step == stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        }
    };
    pretrain(&options(), &dataset, &killed, &mut early(13)).unwrap();
    let newest = checkpoint::folder(&killed, 13);
    let weights = newest.join(WEIGHTS_FILE);
    let mut bytes = std::fs::read(&weights).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    std::fs::create_dir(killed.join(".partial-step-000014")).unwrap();
    std::fs::write(killed.join(".partial-step-000014/model.safetensors"), b"half").unwrap();
    let mut file = OpenOptions::new().append(true).open(killed.join(LOSS_FILE)).unwrap();
    file.write_all(b"{\"step\":14,\"tok").unwrap();
    pretrain(&options(), &dataset, &killed, &mut go_on).unwrap();
    assert_same(&whole, &killed);

    // A checkpoint that belongs to the output is damaged, behind one that is whole.
    for (name, stop) in [("config.json", 22), ("optimizer.safetensors", 21)] {
        let rotten = root.path().join(name);
        pretrain(&options(), &dataset, &rotten, &mut early(stop)).unwrap();
        let file = checkpoint::folder(&rotten, 20).join(name);
        let mut bytes = std::fs::read(&file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&file, bytes).unwrap();
        pretrain(&options(), &dataset, &rotten, &mut go_on).unwrap();
        assert_same(&whole, &rotten);
    }
}

#[test]
fn a_model_is_measured_as_training_goes() {
    let root = tempfile::tempdir().unwrap();
    let dataset = dataset(root.path());
    let plain = root.path().join("plain");
    pretrain(&options(), &dataset, &plain, &mut go_on).unwrap();
    let measured = |name: &str, stops: &[u64]| {
        let out = root.path().join(name);
        for stop in stops.iter().copied().chain([u64::MAX]) {
            let mut early = |report: StepReport| match report.line.step >= stop {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            };
            let measure = |network: &Network, parameters: &[f32]| {
                assert_eq!(parameters.len(), network.layout().total);
                Ok([("size".to_owned(), f64::from(parameters.iter().map(|x| x * x).sum::<f32>()))].into())
            };
            let evaluation = Some(Evaluation { every_steps: 7, measure: Box::new(measure) });
            pretrain_measured(&options(), &dataset, &out, &mut early, evaluation).unwrap();
        }
        out
    };
    let whole = measured("whole", &[]);
    let text = std::fs::read_to_string(whole.join(EVALUATIONS_FILE)).unwrap();
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let places: Vec<(u64, u64)> =
        lines.iter().map(|line| (line["step"].as_u64().unwrap(), line["tokens"].as_u64().unwrap())).collect();
    assert_eq!(places, [7, 14, 21, 24].map(|step| (step, 96 * step)));
    assert_ne!(lines[0]["size"], lines[3]["size"]);
    // Measuring changes nothing, and stopping changes no measurement, in TensorBoard's file neither.
    assert_same(&plain.join(FINAL_FOLDER), &whole.join(FINAL_FOLDER));
    assert_same(&whole, &measured("stopped", &[6, 7, 22]));

    // Killed: the record is ahead of the newest checkpoint.
    let killed = measured("killed", &[]);
    for step in [20, 24] {
        let folder = checkpoint::folder(&killed, step);
        std::fs::remove_dir_all(folder).unwrap();
    }
    std::fs::remove_dir_all(killed.join(FINAL_FOLDER)).unwrap();
    pretrain_measured(&options(), &dataset, &killed, &mut go_on, None).unwrap();
    assert!(std::fs::read_to_string(killed.join(EVALUATIONS_FILE)).unwrap().is_empty());

    let fails = |_: &Network, _: &[f32]| Err(EvaluateError::Nothing("the list of texts"));
    let evaluation = Some(Evaluation { every_steps: 5, measure: Box::new(fails) });
    let out = root.path().join("failed");
    let error =
        pretrain_measured(&options(), &dataset, &out, &mut go_on, evaluation).unwrap_err().to_string();
    assert!(error.starts_with("at step 5: ") && error.contains("the list of texts"), "{error}");
}

#[test]
fn a_cooldown_branches_from_a_stable_checkpoint() {
    let root = tempfile::tempdir().unwrap();
    let dataset = dataset(root.path());
    let trunk = root.path().join("trunk");
    let long = PretrainOptions { steps: 10, cooldown_steps: 0, checkpoint_every_steps: 10, ..options() };
    pretrain(&long, &dataset, &trunk, &mut go_on).unwrap();
    let short = PretrainOptions {
        steps: 14,
        cooldown_steps: 4,
        branch_from: Some(checkpoint::folder(&trunk, 10)),
        ..options()
    };
    let mut steps = Vec::new();
    pretrain(&short, &dataset, &root.path().join("branch"), &mut |report| {
        steps.push((report.line.step, report.line.lr, report.line.tokens));
        ControlFlow::Continue(())
    })
    .unwrap();
    // Steps and tokens go on counting from the trunk's.
    assert_eq!(steps[0], (11, 1e-2, 11 * 96));
    assert_eq!(steps.len(), 4);
    assert!(steps[3].1 < 2e-3);
    let other = PretrainOptions { model: ModelOptions { layers: Some(1), ..short.model.clone() }, ..short };
    assert!(matches!(
        pretrain(&other, &dataset, &root.path().join("x"), &mut go_on),
        Err(PretrainError::Train(TrainError::Mismatch { .. }))
    ));
}

#[test]
fn other_settings_and_unusable_ones_are_named() {
    let root = tempfile::tempdir().unwrap();
    let dataset = dataset(root.path());
    let out = root.path().join("run");
    let short = PretrainOptions { steps: 5, warmup_steps: 1, ..options() };
    pretrain(&short, &dataset, &out, &mut go_on).unwrap();
    let message =
        |options: &PretrainOptions| pretrain(options, &dataset, &out, &mut go_on).unwrap_err().to_string();
    let changed = message(&PretrainOptions { lr: 2e-2, steps: 9, ..short.clone() });
    assert!(changed.contains("lr was 0.01, is 0.02") && changed.contains("steps was 5, is 9"), "{changed}");
    assert!(message(&PretrainOptions { context_tokens: 17, ..short.clone() }).contains("context_tokens"));
    assert!(message(&PretrainOptions { warmup_steps: 6, ..short.clone() }).contains("warmup_steps"));
    let vocabulary = ModelOptions { vocab_size: Some(63), ..short.model.clone() };
    assert!(message(&PretrainOptions { model: vocabulary, ..short.clone() }).contains("a vocabulary of 64"));
}

#[test]
fn divergence_names_the_step() {
    let root = tempfile::tempdir().unwrap();
    let dataset = dataset(root.path());
    let options = PretrainOptions { lr: 1e30, warmup_steps: 1, ..options() };
    let error = pretrain(&options, &dataset, &root.path().join("run"), &mut go_on).unwrap_err();
    assert!(matches!(error, PretrainError::Train(TrainError::Diverged { step: 2..=6, .. })), "{error}");
}

#[test]
fn both_back_ends_train_alike() {
    let root = tempfile::tempdir().unwrap();
    let dataset = dataset(root.path());
    let last = |backend, name: &str| {
        let options = PretrainOptions { backend, steps: 6, warmup_steps: 1, ..options() };
        let mut loss = 0.0;
        pretrain(&options, &dataset, &root.path().join(name), &mut |report| {
            loss = report.line.loss;
            ControlFlow::Continue(())
        })
        .unwrap();
        loss
    };
    let (fast, slow) = (last(BackendKind::Cpu, "cpu"), last(BackendKind::Naive, "naive"));
    assert!((fast - slow).abs() < 1e-3, "{fast} against {slow}");
}

#[test]
fn attention_within_documents_trains_another_model_that_resumes_too() {
    let root = tempfile::tempdir().unwrap();
    let dataset = dataset(root.path());
    let documents = PretrainOptions { attention: AttentionScope::Document, steps: 8, ..options() };
    let run = |options: &PretrainOptions, name: &str, stop: u64| {
        let mut losses = Vec::new();
        pretrain(options, &dataset, &root.path().join(name), &mut |report| {
            losses.push(report.line.loss);
            if report.step == stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .unwrap();
        losses
    };
    let whole = run(&documents, "whole", 0);
    assert_eq!(run(&documents, "stopped", 3).len(), 3);
    run(&documents, "stopped", 0);
    assert_same(&root.path().join("whole"), &root.path().join("stopped"));
    let across = run(&PretrainOptions { attention: AttentionScope::Sequence, ..documents }, "across", 0);
    // The same data and first weights; tokens after a document's end are predicted from less.
    assert!(whole[0] != across[0] && (whole[0] - across[0]).abs() < 0.2, "{} and {}", whole[0], across[0]);
}

/// Runs `count` workers in their own folders below `root`; worker `lost` goes away after step 13.
fn work_together(
    dataset: &TokenDataset,
    root: &Path,
    count: usize,
    lost: Option<usize>,
) -> Vec<Option<Result<Vec<f64>, PretrainError>>> {
    let addresses = free_addresses(count);
    std::thread::scope(|scope| {
        let handles: Vec<_> = (0..count)
            .map(|rank| {
                let workers = Some(WorkerOptions { addresses: addresses.clone(), rank, timeout_seconds: 60 });
                scope.spawn(move || {
                    let mut losses = Vec::new();
                    let options = PretrainOptions { workers, threads: 1, ..options() };
                    let out = root.join(format!("{count}-{rank}"));
                    pretrain(&options, dataset, &out, &mut |report| {
                        losses.push(report.line.loss);
                        if lost == Some(rank) && report.step == 13 {
                            std::panic::resume_unwind(Box::new("the process dies"));
                        }
                        ControlFlow::Continue(())
                    })
                    .map(|_| losses)
                })
            })
            .collect();
        handles.into_iter().map(|handle| handle.join().ok()).collect()
    })
}

#[test]
fn workers_train_what_one_process_does() {
    let root = tempfile::tempdir().unwrap();
    let dataset = dataset(root.path());
    let mut alone = Vec::new();
    pretrain(&options(), &dataset, &root.path().join("alone"), &mut |report| {
        alone.push(report.line.loss);
        ControlFlow::Continue(())
    })
    .unwrap();
    // Six sequences a step: even shares and uneven ones.
    for count in [2, 4] {
        let results = work_together(&dataset, root.path(), count, None);
        for losses in results.into_iter().map(|result| result.unwrap().unwrap()) {
            assert_eq!(losses.len(), alone.len());
            for (step, (together, alone)) in losses.iter().zip(&alone).enumerate() {
                assert!((together - alone).abs() < 1e-5, "{count} workers, step {step}: {together}, {alone}");
            }
        }
        let last = |rank| root.path().join(format!("{count}-{rank}")).join(FINAL_FOLDER);
        assert_same(&last(0), &last(count - 1));
        assert!(checkpoint::list(&root.path().join(format!("{count}-1"))).unwrap().is_empty());
    }
}

#[test]
fn after_a_lost_worker_all_go_on_from_the_last_checkpoint() {
    let root = tempfile::tempdir().unwrap();
    let dataset = dataset(root.path());
    let (whole, disturbed) = (root.path().join("whole"), root.path().join("disturbed"));
    work_together(&dataset, &whole, 3, None);
    for (rank, result) in work_together(&dataset, &disturbed, 3, Some(1)).into_iter().enumerate() {
        let Some(result) = result else {
            assert_eq!(rank, 1);
            continue;
        };
        let message = result.unwrap_err().to_string();
        assert!(message.contains("lost worker") && message.contains("last checkpoint"), "{message}");
    }
    assert_eq!(checkpoint::list(&disturbed.join("3-0")).unwrap(), [5, 10]);
    for result in work_together(&dataset, &disturbed, 3, None) {
        result.unwrap().unwrap();
    }
    assert_same(&whole.join("3-0"), &disturbed.join("3-0"));
}

#[test]
fn workers_with_other_settings_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let dataset = dataset(root.path());
    let addresses = free_addresses(2);
    let message = std::thread::scope(|scope| {
        let run = |rank: usize, lr: f64| {
            let workers = Some(WorkerOptions { addresses: addresses.clone(), rank, timeout_seconds: 5 });
            let options = PretrainOptions { workers, lr, threads: 1, ..options() };
            pretrain(&options, &dataset, &root.path().join(rank.to_string()), &mut go_on).unwrap_err()
        };
        let other = scope.spawn(move || run(1, 2e-2).to_string());
        let here = run(0, 1e-2).to_string();
        here + &other.join().unwrap()
    });
    assert!(message.contains("other settings"), "{message}");
    let workers = Some(WorkerOptions { addresses: free_addresses(7), rank: 0, timeout_seconds: 1 });
    let too_many = PretrainOptions { workers, ..options() };
    let error = pretrain(&too_many, &dataset, &root.path().join("x"), &mut go_on).unwrap_err();
    assert!(error.to_string().contains("batch_sequences"), "{error}");
}

#[test]
fn skipped_updates_leave_the_weights_and_resume_too() {
    let root = tempfile::tempdir().unwrap();
    let dataset = dataset(root.path());
    // Gradients vary by more than a hundredth: some count as spikes.
    let spikes = SpikeOptions { factor: Some(1.01), action: SpikeAction::Skip };
    let skipping = PretrainOptions { steps: 60, spikes, ..options() };
    let run = |name: &str, stop: u64| {
        pretrain(&skipping, &dataset, &root.path().join(name), &mut |report| {
            if report.step >= stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .unwrap();
        let lines =
            |file| std::fs::read_to_string(root.path().join(name).join(file)).unwrap().lines().count();
        (lines(LOSS_FILE), lines(SKIPPED_FILE))
    };
    let (made, skipped) = run("whole", 60);
    assert_eq!(made + skipped, 60);
    assert!(made >= 20 && skipped > 0, "{made} and {skipped}");
    run("stopped", 40);
    assert_eq!(run("stopped", 60), (made, skipped));
    assert_same(&root.path().join("whole"), &root.path().join("stopped"));
    let stopping = SpikeOptions { action: SpikeAction::Stop, ..spikes };
    let error = pretrain(
        &PretrainOptions { spikes: stopping, ..skipping.clone() },
        &dataset,
        &root.path().join("x"),
        &mut go_on,
    );
    assert!(matches!(error, Err(PretrainError::Train(TrainError::Diverged { step: 21.., .. }))));
}

#[test]
fn recomputed_activations_train_the_same_bytes() {
    let root = tempfile::tempdir().unwrap();
    let dataset = dataset(root.path());
    let run = |activations, name: &str| {
        let out = root.path().join(name);
        pretrain(&PretrainOptions { activations, ..options() }, &dataset, &out, &mut go_on).unwrap();
        out
    };
    assert_same(&run(Activations::Float32, "kept"), &run(Activations::Recompute, "again"));
    run(Activations::Bfloat16, "rounded");
}

#[test]
fn threads_that_train_flush_denormals() {
    let pool = training::thread_pool(2).unwrap();
    let tiny = std::hint::black_box(f32::MIN_POSITIVE);
    assert!(pool.broadcast(|_| std::hint::black_box(tiny * 0.25)).iter().all(|&product| product == 0.0));
}
