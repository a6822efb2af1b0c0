#!/bin/sh
# cli_docs.sh - --help, man page and completion list the same options, verb by verb.
#
# GEN, FOVEA, VZIP, ... name the programs; each program with a page tools/man/NAME.1 is looked at.
# The subsections of the page are the verbs. The completion is asked through bash, as a shell would.
set -u
. "$(dirname "$0")/shell_checks.sh"
tools=$tests/../tools
same() { # files, name
    diff "$1" "$2" > difference
    code=$?
    sed -n 's/^[<>]/# &/p' difference
    ok $code "$3"
}

# Lines of two spaces and an option; "-o, --out FILE" counts twice.
of_help() {
    "$@" --help | sed -n 's/^  \(-[-a-zA-Z].*\)/\1/p' | sed 's/  .*//' | grep -o -- '--*[a-zA-Z][a-z0-9-]*' |
        grep '^-' | sort -u
}
# Items "Fl x" and "Fl -long" below the subsection of the verb.
of_man() { # page, verb
    awk -v verb="$2" '
        /^\.S[sh] / { here = substr($0, 5) == verb; next }
        here && /^\.It / { for (i = 2; i < NF; i++) if ($i == "Fl") print "-" $(i + 1) }' "$1" | sort -u
}
of_completion() { # program, verb words
    program=$1
    shift
    bash -c '
        . "$1"
        shift
        COMP_WORDS=("$@" -)
        COMP_CWORD=$#
        "_$1"
        printf "%s\n" "${COMPREPLY[@]}"' bash "$tools/completion/$program.bash" "$@" | grep '^-' | sort -u
}

verbs_of_completion() { # program: what it offers as the first word where there are no files
    mkdir -p nothing
    (cd nothing && bash -c '
        . "$1"
        COMP_WORDS=("$2" "")
        COMP_CWORD=1
        "_$2"
        printf "%s\n" "${COMPREPLY[@]}"' bash "$tools/completion/$1.bash" "$1") |
        grep '^[a-z]' | sort -u
}
# Subsections "program" and "program verb ..." of the page.
verbs_of_man() { # page, program
    sed -n "s/^\.S[sh] \($2\)\$/\1/p; s/^\.S[sh] \($2 [a-z -]*\)\$/\1/p" "$1"
}
# Columns and lines: a terminal of 80 columns without scrolling.
fits_a_screen() { # file
    awk 'length > 80 { print "# " length " columns: " $0; bad = 1 }
        END { if (NR > 44) { print "# " NR " lines"; bad = 1 } exit bad }' "$1"
}

check() { # path of the program, its name, verb words
    path=$1
    shift
    name="$*" program=$1
    shift
    "$path" "$@" --help > text; ok $? "help_exits_with_0 $name"
    fits_a_screen text; ok $? "help_fits_a_screen $name"
    of_help "$path" "$@" > help
    [ -s help ]; ok $? "help_lists_options $name"
    of_man "$tools/man/$program.1" "$name" > man
    same help man "man_page_equals_help $name"
    if command -v bash > /dev/null; then
        of_completion "$program" "$program" "$@" > completion
        same help completion "completion_equals_help $name"
    else
        skip "completion_equals_help $name" "no bash"
    fi
}
for page in "$tools"/man/*.1; do
    program=$(basename "$page" .1)
    eval "path=\${$(echo "$program" | tr '[:lower:]' '[:upper:]'):-}"
    if [ -z "$path" ]; then
        skip "$program" "not built"
        continue
    fi
    verbs_of_man "$page" "$program" > verbs
    grep -qx "$program" verbs; ok $? "man_page_has_the_options $program"
    if command -v bash > /dev/null; then
        sed -n "s/^$program \([a-z]*\)\$/\1/p" verbs | sort -u > man
        verbs_of_completion "$program" > completion
        same man completion "man_page_and_completion_have_the_same_verbs $program"
    fi
    # The path may hold spaces; the words of a verb are split.
    while IFS= read -r words; do
        # shellcheck disable=SC2086
        check "$path" $words < /dev/null
    done < verbs
done

if command -v mandoc > /dev/null; then
    for page in "$tools"/man/*.1; do
        # Whether the other page is found depends on what is installed.
        mandoc -T lint "$page" 2>&1 | grep -v 'referenced manual not found' > lint
        sed 's/^/# /' lint
        [ ! -s lint ]; ok $? "mandoc_lint $(basename "$page")"
    done
else
    skip mandoc_lint "no mandoc"
fi
finish
