"""The public functions of zkmig, by what they are about; the command line calls the same ones."""
