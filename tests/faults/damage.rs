//! Bits flip and files are cut, anywhere in a run's folder.

use std::fs::{self, FileTimes};
use std::path::{Path, PathBuf};

use crate::fixture::{
    Dice, Fixture, copied_reference, copy, kept_answers, outputs, reference_runs, run_folder, size,
};
use crate::language_model::Server;
use crate::shim::{self, Fault};
use crate::support::{Said, digests, pipeline, run};

/// Something that happened to a file.
struct Harm {
    path: PathBuf,
    what: String,
    /// The file's time is as before, as when the storage itself loses bits.
    unnoticed: bool,
}

/// All files under a folder, sorted.
fn files(folder: &Path) -> Vec<PathBuf> {
    digests(folder).keys().map(|path| folder.join(path)).collect()
}

/// Harms one file of a run at a random place.
fn harm(run: &Path, dice: &mut Dice) -> Harm {
    let all = files(run);
    let log = run.join(".answers/generate/answers-00000.log");
    // The log is one file among a hundred, and the dearest.
    let begun: Vec<&PathBuf> =
        all.iter().filter(|path| path.display().to_string().contains("/.partial-")).collect();
    let path = match dice.below(8) {
        0 if log.exists() => log,
        // What is at work trusts what it finds the most.
        1..5 if !begun.is_empty() => begun[dice.below(begun.len())].clone(),
        _ => all[dice.below(all.len())].clone(),
    };
    let mut bytes = fs::read(&path).unwrap();
    let times = path.metadata().unwrap();
    let what = match dice.below(4) {
        0 if !bytes.is_empty() => {
            bytes.truncate(dice.below(bytes.len()));
            format!("cut to {} bytes", bytes.len())
        }
        1 if !bytes.is_empty() => {
            let at = dice.below(bytes.len());
            let end = bytes.len().min(at + 512);
            // A sector that was never written.
            bytes[at..end].iter_mut().for_each(|byte| *byte = !*byte);
            format!("bytes {at} to {end} overwritten")
        }
        _ if !bytes.is_empty() => {
            let bit = dice.below(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            format!("bit {bit} flipped")
        }
        _ => {
            bytes.push(0);
            "a byte added".to_owned()
        }
    };
    fs::write(&path, bytes).unwrap();
    let unnoticed = dice.below(2) == 0;
    if unnoticed {
        let times = FileTimes::new().set_modified(times.modified().unwrap());
        fs::File::options().write(true).open(&path).unwrap().set_times(times).unwrap();
    }
    Harm { path, what, unnoticed }
}

impl Harm {
    /// Files of which no digest is kept, and which decide no output.
    fn is_of_no_consequence(&self, run: &Path) -> bool {
        let inside = self.path.strip_prefix(run).unwrap().to_string_lossy().into_owned();
        let hidden = inside.rsplit('/').next().unwrap_or_default().starts_with('.');
        hidden || inside == "report.html" || inside.ends_with("/lock")
    }

    fn is_log(&self) -> bool {
        self.path.extension().is_some_and(|extension| extension == "log")
    }

    /// Reports are wrapped to the terminal's width, in the middle of a path as well.
    fn is_named_in(&self, words: &str) -> bool {
        let packed = |text: &str| text.split_whitespace().collect::<String>();
        packed(words).contains(&packed(&self.path.display().to_string()))
    }
}

fn verify(run_folder: &Path) -> Said {
    run(pipeline().arg("verify").arg(run_folder))
}

fn repair(run_folder: &Path) -> Said {
    run(pipeline().arg("repair").arg(run_folder))
}

#[test]
fn harm_to_a_finished_run_is_found_told_and_mended() {
    let fixture = Fixture::new(Server::faithful());
    let mut dice = Dice::new(5);
    let (mut found, mut refused) = (0, 0);
    let times = size("CORPUSMITH_DAMAGES", 40);
    for number in 0..times {
        let runs = copied_reference();
        let folder = run_folder(runs.path());
        let harm = harm(&folder, &mut dice);
        let after = format!("{number}: {} {}", harm.path.display(), harm.what);
        let looked = verify(&folder);
        if harm.is_of_no_consequence(&folder) {
            assert_eq!(looked.code, Some(0), "{after}: {}", looked.out);
        } else if looked.code == Some(0) {
            // A log that is cut between two records is a whole, shorter log.
            assert!(harm.is_log() && harm.what.starts_with("cut"), "{after}: not found");
        } else {
            assert_eq!(looked.code, Some(1), "{after}: {}", looked.err);
            assert!(
                harm.is_named_in(&looked.out) && looked.out.contains("pipeline repair"),
                "{after}: {}",
                looked.out
            );
            found += 1;
        }
        fixture.server.forgive();
        fixture.server.keep(kept_answers_of_mended(runs.path(), &harm));
        // What lost bits by itself is noticed by whoever reads it; nothing reads it here.
        if !harm.unnoticed {
            refused += usize::from(goes_on_or_refuses(&fixture, runs.path(), &harm, &after));
        }
        let mended = repair(&folder);
        assert_eq!(mended.code, Some(0), "{after}: {}", mended.err);
        fixture.complete(runs.path(), &format!("repaired after {after}"));
        let looked = verify(&folder);
        assert_eq!(looked.code, Some(0), "{after}, mended and run: {}", looked.out);
    }
    assert!(found * 2 > times, "only {found} of {times} were found");
    eprintln!("{times} harmed: {found} found by verify, {refused} refused by run");
}

/// The answers that must not be asked for again: those that a repaired log holds.
fn kept_answers_of_mended(runs: &Path, harm: &Harm) -> Vec<String> {
    if !harm.is_log() {
        return kept_answers(runs);
    }
    let copied = tempfile::tempdir().unwrap();
    copy(&runs.join("w"), copied.path());
    let mended = repair(&run_folder(copied.path()));
    assert_eq!(mended.code, Some(0), "{}", mended.err);
    let (before, after) = (kept_answers(reference_runs()).len(), kept_answers(copied.path()));
    if harm.what.starts_with("bit") {
        // One bit harms one record at most, and none if it is in the header.
        assert!(after.len() + 1 >= before, "{}: {before} answers, {} kept", harm.what, after.len());
    }
    after
}

/// A run on harmed files ends with the right bytes, or names the file and the mend. Returns whether it refused.
fn goes_on_or_refuses(fixture: &Fixture, runs: &Path, harm: &Harm, after: &str) -> bool {
    let said = run(&mut fixture.command(runs));
    assert!(!said.err.contains("panicked"), "{after}: {}", said.err);
    if said.code == Some(0) {
        // Of a stage that was finished and that nothing reads any more, only `verify` notices.
        let inside = harm.path.strip_prefix(run_folder(runs)).unwrap().to_string_lossy().into_owned();
        fixture.check_but(runs, harm.unnoticed.then_some(&*inside), after);
        return false;
    }
    assert!(matches!(said.code, Some(1 | 2)), "{after}: exit code {:?}", said.code);
    let named = harm.is_named_in(&said.err) && said.err.contains("pipeline repair");
    assert!(named, "{after}: it does not name the file and the mend: {}", said.err);
    true
}

#[test]
fn harm_to_an_unfinished_run_is_noticed_or_undone() {
    if !shim::ready() {
        return;
    }
    let fixture = Fixture::new(Server::faithful());
    let calls = shim::count_calls(&fixture);
    let mut dice = Dice::new(9);
    let mut refused = 0;
    let times = size("CORPUSMITH_DAMAGES", 40) / 2;
    for number in 0..times {
        let runs = tempfile::tempdir().unwrap();
        fixture.server.forgive();
        let at = 50 + dice.below(calls - 50);
        shim::run_with(&fixture, runs.path(), &Fault { mode: "kill", at, ever: false });
        let folder = run_folder(runs.path());
        let harm = harm(&folder, &mut dice);
        let after = format!("{number}: killed at call {at}, {} {}", harm.path.display(), harm.what);
        if goes_on_or_refuses(&fixture, runs.path(), &harm, &after) {
            refused += 1;
            let mended = repair(&folder);
            assert_eq!(mended.code, Some(0), "{after}: {}", mended.err);
            fixture.complete(runs.path(), &format!("repaired after {after}"));
        } else if harm.unnoticed || harm.is_log() {
            // The run left these to `repair`: what nothing reads any more, and the hole in a log whose lost
            // answers it asked for again.
            let mended = repair(&folder);
            assert_eq!(mended.code, Some(0), "{after}: {}", mended.err);
            fixture.complete(runs.path(), &format!("repaired after {after}"));
        }
        let looked = verify(&folder);
        assert_eq!(looked.code, Some(0), "{after}: {}", looked.out);
    }
    eprintln!("{times} harmed: {refused} refused by run");
}

#[test]
fn bits_that_rot_are_noticed_by_the_stage_that_reads_them() {
    let fixture = Fixture::new(Server::faithful());
    for (rotten, reader) in [
        ("near/data/00000-00000.parquet", "corpus"),
        ("long/data/00001-00000.parquet", "once"),
        ("tokens/web/tokens-00000.bin", "model"),
        ("pages/data/00002-00000.parquet", "long"),
    ] {
        let runs = copied_reference();
        let folder = run_folder(runs.path());
        let path = folder.join(rotten);
        let time = path.metadata().unwrap().modified().unwrap();
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 16;
        fs::write(&path, bytes).unwrap();
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.set_times(FileTimes::new().set_modified(time)).unwrap();
        let said = run(fixture.command(runs.path()).args(["--from", reader]));
        assert_eq!(said.code, Some(1), "{rotten}: {}", said.err);
        let harm = Harm { path, what: "rotten".to_owned(), unnoticed: true };
        assert!(
            harm.is_named_in(&said.err) && said.err.contains("pipeline repair"),
            "{rotten}: {}",
            said.err
        );
        assert_eq!(repair(&folder).code, Some(0));
        fixture.complete(runs.path(), &format!("repaired after {rotten} was rotten"));
    }
}

#[test]
fn a_harmed_record_of_spending_is_told_and_put_aside() {
    let fixture = Fixture::new(Server::faithful());
    let runs = copied_reference();
    let folder = run_folder(runs.path());
    let path = folder.join(".answers/spent.json");
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).unwrap();
    let harm = Harm { path, what: "a bit flipped".to_owned(), unnoticed: false };
    let looked = verify(&folder);
    assert_eq!(looked.code, Some(1), "{}", looked.err);
    assert!(harm.is_named_in(&looked.out) && looked.out.contains("pipeline repair"), "{}", looked.out);
    let said = run(fixture.command(runs.path()).args(["--from", "generate"]));
    assert_eq!(said.code, Some(2), "{}", said.err);
    assert!(harm.is_named_in(&said.err) && said.err.contains("pipeline repair"), "{}", said.err);
    assert_eq!(repair(&folder).code, Some(0));
    assert!(folder.join(".damaged/00001/.answers/spent.json").is_file());
    fixture.complete(runs.path(), "repaired after its record of spending was harmed");
    assert_eq!(verify(&folder).code, Some(0));
}

#[test]
fn a_repair_deletes_nothing_and_tells_beforehand_what_it_will_do() {
    let fixture = Fixture::new(Server::faithful());
    let runs = copied_reference();
    let folder = run_folder(runs.path());
    let (shard, log) =
        (folder.join("long/data/00001-00000.parquet"), folder.join(".answers/generate/answers-00000.log"));
    let answers = kept_answers(runs.path()).len();
    for path in [&shard, &log] {
        let mut bytes = fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(path, bytes).unwrap();
    }
    let before = digests(&folder);
    let said = run(pipeline().arg("repair").arg(&folder).arg("--dry-run"));
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(said.out.contains("would put task 1 of") && said.out.contains("would write"), "{}", said.out);
    let mut after = digests(&folder);
    assert_eq!((after.remove(".lock").is_some(), before.contains_key(".lock")), (true, true));
    assert!(
        after.iter().all(|(path, digest)| before.get(path) == Some(digest)),
        "a dry run changed something"
    );

    let said = repair(&folder);
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(said.out.contains(".damaged/00001"), "{}", said.out);
    let aside = digests(&folder.join(".damaged/00001"));
    for path in ["long/data/00001-00000.parquet", ".answers/generate/answers-00000.log"] {
        assert_eq!(aside.get(path), before.get(path), "{path} is not kept: {aside:?}");
    }
    assert_eq!(kept_answers(runs.path()).len(), answers - 1);
    // The other tasks of the stage stay.
    let begun = folder.read_dir().unwrap().flatten().map(|entry| entry.path());
    let begun = begun.into_iter().find(|path| path.display().to_string().contains(".partial-long-")).unwrap();
    assert!(begun.join("tasks/00000.json").exists() && !begun.join("tasks/00001.json").exists());
    fixture.complete(runs.path(), "after the repair");
    assert!(outputs(runs.path()).contains_key("long/data/00001-00000.parquet"));
}

#[test]
fn a_repair_may_be_killed_at_any_call() {
    if !shim::ready() {
        return;
    }
    let fixture = Fixture::new(Server::faithful());
    let harmed = copied_reference();
    for inside in
        ["long/data/00001-00000.parquet", "corpus/manifest.json", ".answers/generate/answers-00000.log"]
    {
        let path = run_folder(harmed.path()).join(inside);
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, bytes).unwrap();
    }
    for at in 1.. {
        let runs = tempfile::tempdir().unwrap();
        copy(&harmed.path().join("w"), runs.path());
        let folder = run_folder(runs.path());
        let mut command = pipeline();
        command.arg("repair").arg(&folder);
        let (said, calls) = shim::strike(&mut command, runs.path(), &Fault { mode: "kill", at, ever: false });
        if said.code == Some(0) {
            assert!(calls.len() > 20, "{calls:?}");
            break;
        }
        let after = format!("a repair was killed at {}", calls.last().unwrap());
        assert_eq!(said.code, None, "{after}: {}", said.err);
        let mended = repair(&folder);
        assert_eq!(mended.code, Some(0), "{after}: {}", mended.err);
        fixture.complete(runs.path(), &after);
        let looked = verify(&folder);
        assert_eq!(looked.code, Some(0), "{after}: {}", looked.out);
    }
}
