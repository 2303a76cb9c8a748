//! `fuzz-seeds FOLDER`: writes inputs that the readers accept, one folder per target, from which
//! the fuzzer goes on.

use std::error::Error;
use std::fs;
use std::path::PathBuf;

const DOCUMENTS: &str = concat!(
    "{\"text\": \"ab\"}\n\n{\"id\": 7, \"text\": \"cdefghijklmnop\", \"tags\": [null, 1.5e3]}\n",
    "{\"text\": \"\\u00e9\\n\"}\n{\"text\": \"\"}\n{\"text\": \"qrstuvwxyz\"}\n"
);

fn main() -> Result<(), Box<dyn Error>> {
    let [folder] = <[_; 1]>::try_from(std::env::args_os().skip(1).collect::<Vec<_>>())
        .map_err(|_| "usage: fuzz-seeds FOLDER")?;
    let folder = PathBuf::from(folder);
    let mut shards = Vec::new();
    trainer::data::shards::write(&mut shards, &[5; 30])?;
    trainer::data::shards::write(&mut shards, &[200; 20])?;
    let model = tempfile::tempdir()?;
    let model = model.path().join("model");
    brine_fuzz::write_model(&model);
    let weights = fs::read(model.join("model.safetensors"))?;
    for (target, content) in
        [("shards", shards), ("jsonl", DOCUMENTS.into()), ("safetensors", weights)]
    {
        let folder = folder.join(target);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("valid"), content)?;
    }
    Ok(())
}
