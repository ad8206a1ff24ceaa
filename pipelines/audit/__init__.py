"""The audit: a web app on this machine in which a person looks at a corpus, doubts its rules, and says so."""
