"""The embedded family: small real Llamas trained on synthetic skills, committed with the code."""
