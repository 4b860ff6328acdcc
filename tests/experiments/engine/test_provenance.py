"""Which revision a result names."""

import subprocess

from experiments.engine import provenance


def test_code_that_was_unpacked_inside_another_repository_names_no_revision(monkeypatch, tmp_path):
    def git(*words):
        subprocess.run(
            ["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b", *words], check=True
        )

    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "theirs")
    (tmp_path / "copy").mkdir()
    monkeypatch.setattr(provenance, "ROOT", tmp_path / "copy")
    assert provenance.git_revision() == {"git_revision": None, "git_dirty": None}
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    assert len(provenance.git_revision()["git_revision"]) == 40
