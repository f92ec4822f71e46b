# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_ckptadv_global_optspecs
    string join \n h/help V/version
end

function __fish_ckptadv_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_ckptadv_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_ckptadv_using_subcommand
    set -l cmd (__fish_ckptadv_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c ckptadv -n "__fish_ckptadv_needs_command" -s h -l help -d 'Print help'
complete -c ckptadv -n "__fish_ckptadv_needs_command" -s V -l version -d 'Print version'
complete -c ckptadv -n "__fish_ckptadv_needs_command" -f -a "run" -d 'Run a restart program with advice for the descriptors of what it restarts'
complete -c ckptadv -n "__fish_ckptadv_needs_command" -f -a "inspect" -d 'Show what an image holds: tasks, descriptors and open file descriptions'
complete -c ckptadv -n "__fish_ckptadv_needs_command" -f -a "diff" -d 'Show what tells the descriptors of two images apart'
complete -c ckptadv -n "__fish_ckptadv_needs_command" -f -a "plan" -d 'Show what advice would do at the restart of an image, and why'
complete -c ckptadv -n "__fish_ckptadv_needs_command" -f -a "check" -d 'Show what a restore on this machine would fail on, or lose, and what cures it'
complete -c ckptadv -n "__fish_ckptadv_needs_command" -f -a "show" -d 'Show what a running program advises of its own descriptors'
complete -c ckptadv -n "__fish_ckptadv_needs_command" -f -a "rewrite" -d 'Write an image anew, as advice wants it'
complete -c ckptadv -n "__fish_ckptadv_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c ckptadv -n "__fish_ckptadv_using_subcommand run" -l preserve -d 'Numbers that come from the restart program, whatever the image has' -r
complete -c ckptadv -n "__fish_ckptadv_using_subcommand run" -l ignore -d 'Descriptors of the image to drop' -r
complete -c ckptadv -n "__fish_ckptadv_using_subcommand run" -l substitute -d 'TARGET=SOURCE: descriptors of the image to replace' -r
complete -c ckptadv -n "__fish_ckptadv_using_subcommand run" -l report -d 'Where to write what became of each restart, as JSON' -r -F
complete -c ckptadv -n "__fish_ckptadv_using_subcommand run" -l library -d 'The library [default: libckptadv.so beside this program, or where it is installed]' -r -F
complete -c ckptadv -n "__fish_ckptadv_using_subcommand run" -l log -d 'How much the library says: error, warn, info, debug or trace' -r -f -a "error\t''
warn\t''
info\t''
debug\t''
trace\t''"
complete -c ckptadv -n "__fish_ckptadv_using_subcommand run" -l log-file -d 'Where it says it [default: standard error]' -r -F
complete -c ckptadv -n "__fish_ckptadv_using_subcommand run" -l restart-nr -d 'The number of this kernel\'s restart system call' -r
complete -c ckptadv -n "__fish_ckptadv_using_subcommand run" -l strict -d 'Refuse if an item selects nothing'
complete -c ckptadv -n "__fish_ckptadv_using_subcommand run" -l dry-run -d 'Print the plan, and restart nothing'
complete -c ckptadv -n "__fish_ckptadv_using_subcommand run" -s h -l help -d 'Print help'
complete -c ckptadv -n "__fish_ckptadv_using_subcommand inspect" -l json -d 'As JSON, for programs'
complete -c ckptadv -n "__fish_ckptadv_using_subcommand inspect" -l dot -d 'As a picture, for dot(1) of Graphviz'
complete -c ckptadv -n "__fish_ckptadv_using_subcommand inspect" -s h -l help -d 'Print help'
complete -c ckptadv -n "__fish_ckptadv_using_subcommand diff" -l json -d 'As JSON, for programs'
complete -c ckptadv -n "__fish_ckptadv_using_subcommand diff" -s h -l help -d 'Print help'
complete -c ckptadv -n "__fish_ckptadv_using_subcommand plan" -l preserve -d 'Numbers that come from the restart program, whatever the image has' -r
complete -c ckptadv -n "__fish_ckptadv_using_subcommand plan" -l ignore -d 'Descriptors of the image to drop' -r
complete -c ckptadv -n "__fish_ckptadv_using_subcommand plan" -l substitute -d 'TARGET=SOURCE: descriptors of the image to replace' -r
complete -c ckptadv -n "__fish_ckptadv_using_subcommand plan" -l strict -d 'Refuse if an item selects nothing'
complete -c ckptadv -n "__fish_ckptadv_using_subcommand plan" -l json -d 'As JSON, for programs'
complete -c ckptadv -n "__fish_ckptadv_using_subcommand plan" -s h -l help -d 'Print help'
complete -c ckptadv -n "__fish_ckptadv_using_subcommand check" -l preserve -d 'Numbers that come from the restart program, whatever the image has' -r
complete -c ckptadv -n "__fish_ckptadv_using_subcommand check" -l ignore -d 'Descriptors of the image to drop' -r
complete -c ckptadv -n "__fish_ckptadv_using_subcommand check" -l substitute -d 'TARGET=SOURCE: descriptors of the image to replace' -r
complete -c ckptadv -n "__fish_ckptadv_using_subcommand check" -l strict -d 'Refuse if an item selects nothing'
complete -c ckptadv -n "__fish_ckptadv_using_subcommand check" -l json -d 'As JSON, for programs'
complete -c ckptadv -n "__fish_ckptadv_using_subcommand check" -s h -l help -d 'Print help'
complete -c ckptadv -n "__fish_ckptadv_using_subcommand show" -l json -d 'As JSON, for programs'
complete -c ckptadv -n "__fish_ckptadv_using_subcommand show" -s h -l help -d 'Print help'
complete -c ckptadv -n "__fish_ckptadv_using_subcommand rewrite" -l preserve -d 'Numbers that come from the restart program, whatever the image has' -r
complete -c ckptadv -n "__fish_ckptadv_using_subcommand rewrite" -l ignore -d 'Descriptors of the image to drop' -r
complete -c ckptadv -n "__fish_ckptadv_using_subcommand rewrite" -l substitute -d 'TARGET=SOURCE: descriptors of the image to replace' -r
complete -c ckptadv -n "__fish_ckptadv_using_subcommand rewrite" -s o -l output -d 'Where to write it [default: standard output]' -r -F
complete -c ckptadv -n "__fish_ckptadv_using_subcommand rewrite" -l strict -d 'Refuse if an item selects nothing'
complete -c ckptadv -n "__fish_ckptadv_using_subcommand rewrite" -s h -l help -d 'Print help'
complete -c ckptadv -n "__fish_ckptadv_using_subcommand help; and not __fish_seen_subcommand_from run inspect diff plan check show rewrite help" -f -a "run" -d 'Run a restart program with advice for the descriptors of what it restarts'
complete -c ckptadv -n "__fish_ckptadv_using_subcommand help; and not __fish_seen_subcommand_from run inspect diff plan check show rewrite help" -f -a "inspect" -d 'Show what an image holds: tasks, descriptors and open file descriptions'
complete -c ckptadv -n "__fish_ckptadv_using_subcommand help; and not __fish_seen_subcommand_from run inspect diff plan check show rewrite help" -f -a "diff" -d 'Show what tells the descriptors of two images apart'
complete -c ckptadv -n "__fish_ckptadv_using_subcommand help; and not __fish_seen_subcommand_from run inspect diff plan check show rewrite help" -f -a "plan" -d 'Show what advice would do at the restart of an image, and why'
complete -c ckptadv -n "__fish_ckptadv_using_subcommand help; and not __fish_seen_subcommand_from run inspect diff plan check show rewrite help" -f -a "check" -d 'Show what a restore on this machine would fail on, or lose, and what cures it'
complete -c ckptadv -n "__fish_ckptadv_using_subcommand help; and not __fish_seen_subcommand_from run inspect diff plan check show rewrite help" -f -a "show" -d 'Show what a running program advises of its own descriptors'
complete -c ckptadv -n "__fish_ckptadv_using_subcommand help; and not __fish_seen_subcommand_from run inspect diff plan check show rewrite help" -f -a "rewrite" -d 'Write an image anew, as advice wants it'
complete -c ckptadv -n "__fish_ckptadv_using_subcommand help; and not __fish_seen_subcommand_from run inspect diff plan check show rewrite help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
