// gitlab-ci-local takes re2 for the regular expressions of rules. It is compiled at installation,
// for minutes; those of this pipeline mean the same to Node's own.
module.exports = RegExp;
