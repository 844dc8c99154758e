"""Published checkpoints: conversion from and to our layout, and its checks."""
