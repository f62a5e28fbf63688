/** A pod in which nothing runs but what is put into it. */
setInterval(() => {}, 3_600_000)
